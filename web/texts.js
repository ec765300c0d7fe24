import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

let table = {};
let words = {};

/** Begins to speak the user's language: what ComfyUI serves of locales/, English where that lacks something. */
export async function loadTexts() {
  const languages = await (await api.fetchApi("/i18n")).json();
  const chosen = app.extensionManager?.setting?.get("Comfy.Locale");
  table = { ...languages.en?.xpuNodes, ...languages[chosen]?.xpuNodes };
  words = languages[chosen]?.xpuWords ?? {};
}

/**
 * A text of locales/, its key where there is none.
 * @param {string} key
 * @param {Object} values What takes the place of {name} in it.
 */
export function text(key, values = {}) {
  return (table[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/**
 * The user's word for one of the server's, which speaks English: a stage, a kind of fault, what was done about it.
 * @param {string} english
 * @param {string} otherwise What is shown where the language has none.
 */
export function word(english, otherwise = english) {
  return words[english] ?? otherwise;
}
