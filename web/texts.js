import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

let table = {};

/** Begins to speak the user's language: what ComfyUI serves of locales/, English where that lacks something. */
export async function loadTexts() {
  const languages = await (await api.fetchApi("/i18n")).json();
  const chosen = app.extensionManager?.setting?.get("Comfy.Locale");
  table = { ...languages.en?.xpuNodes, ...languages[chosen]?.xpuNodes };
}

/**
 * A text of locales/, its key where there is none.
 * @param {string} key
 * @param {Object} values What takes the place of {name} in it.
 */
export function text(key, values = {}) {
  return (table[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
