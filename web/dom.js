/**
 * Makes an element.
 * @param {string} tag
 * @param {Object} attributes Attributes; `on...` functions are listeners, `text` is the text content.
 * @param {...(Node|string)} children
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Copies text, and says on the button for a moment that it did. */
export async function copyText(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Copying is not allowed here"; // pages without https, other than localhost
  }
  setTimeout(() => (button.textContent = label), 2000);
}

/** 7.1 GiB, 512 MiB */
export function bytes(count) {
  return count >= 2 ** 30 ? `${(count / 2 ** 30).toFixed(1)} GiB` : `${(count / 2 ** 20).toFixed(0)} MiB`;
}

/** The pack's style sheet, once a page. */
export function addStyle() {
  const href = new URL("./style.css", import.meta.url).href;
  if (!document.querySelector(`link[href="${href}"]`)) {
    document.head.append(element("link", { rel: "stylesheet", href }));
  }
}
