import { text } from "./texts.js";

/**
 * Makes an element.
 * @param {string} tag
 * @param {Object} attributes Attributes; `text` is the text content.
 * @param {...(Node|string)} children
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** One of the host's icons: "check-circle", "spinner", ... Its meaning must also be in words beside it. */
export function icon(name) {
  return element("i", { class: `pi pi-${name}`, "aria-hidden": "true" });
}

/**
 * A button that cannot be pressed again while its action runs. It stays focusable meanwhile: `disabled` would throw
 * the keyboard's focus away.
 * @param {string} label
 * @param {(button: HTMLButtonElement) => Promise<void>} action
 * @param {Object} attributes
 */
export function actionButton(label, action, attributes = {}) {
  const button = element("button", { type: "button", text: label, ...attributes });
  button.addEventListener("click", async () => {
    if (button.hasAttribute("aria-disabled")) return;
    button.setAttribute("aria-disabled", "true");
    try {
      await action(button);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  });
  return button;
}

/** Copies what is written, and says on the button for a moment that it did. */
export async function copyText(written, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(written);
    button.textContent = text("copied");
  } catch {
    button.textContent = text("copyRefused"); // pages without https, other than localhost
  }
  setTimeout(() => (button.textContent = label), 2000);
}

/** A number with its unit, never parted at a line's end: 48 °C */
export function quantity(value, unit, digits = 0) {
  return `${value.toFixed(digits)}\u00a0${unit}`;
}

/** 7.1 GiB, 512 MiB */
export function bytes(count) {
  return count >= 2 ** 30 ? quantity(count / 2 ** 30, "GiB", 1) : quantity(count / 2 ** 20, "MiB");
}

/** The pack's style sheet, once a page. */
export function addStyle() {
  const href = new URL("./style.css", import.meta.url).href;
  if (!document.querySelector(`link[href="${href}"]`)) {
    document.head.append(element("link", { rel: "stylesheet", href }));
  }
}
