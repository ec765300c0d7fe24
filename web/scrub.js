/** A home folder with its owner's name, in the way of any system; names with spaces where more of a path follows. */
const HOME = /(?:[a-z]:)?[\\/]+(?:home|users)[\\/]+(?:[^\\/:*?"'<>|\n]+(?=[\\/])|[^\\/:*?"'<>|\s]+)/gi;

/** The folders of an absolute path, up to its last part; not those of an address. */
const FOLDERS = /(?<![\w.…]|:(?=\/\/))(?:[a-z]:)?(?<!:\/)[\\/]+(?:[^\\/:*?"'<>|\s]+[\\/]+)+/gi;

/** Text without the folders that it names: "/home/anna/models/sd15.safetensors" is "…/sd15.safetensors". */
export function scrub(text) {
  return text.replace(HOME, "/~").replace(FOLDERS, "…/");
}

/** For JSON.stringify: every text scrubbed. */
export function scrubbed(_key, value) {
  return typeof value === "string" ? scrub(value) : value;
}
