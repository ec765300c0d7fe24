import { api } from "../../scripts/api.js";
import { INTERVAL, setting, settingsChanged } from "./settings.js";

/** The server samples for 30 s after a page said that it watches. */
const RENEW_MS = 10_000;
const LONGEST_PAUSE_MS = 60_000;

/** Samples that are remembered, for the charts. */
export const KEPT_SAMPLES = 90;

/**
 * Fires "sample" (detail: the sample), "placement" and "fault" (detail: the record), and "reconnected".
 * Samples come only while somebody watches and the page is visible.
 */
export const events = new EventTarget();

/** The latest samples, oldest first. */
export const samples = [];

const watchers = new Set();
let timer = null;
let requests = 0;
let failures = 0;

/** Answers a route's JSON; rejects with the server's own sentence. */
export async function get(route) {
  const answer = await api.fetchApi(`/xpu/${route}`);
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.error ?? answer.statusText);
  return data;
}

/** What is known of the newest prompt, or null. */
export async function newestJob() {
  const { jobs } = await get("jobs?limit=1");
  return jobs[0] ?? null;
}

/** Asks the server to unload all models; answers when that will be. */
export async function freeMemory() {
  return (await post("free")).when;
}

/** Has the server begin anew with its queue; answers how many prompts that is. */
export async function restart() {
  return (await post("restart")).kept;
}

async function post(route) {
  const answer = await api.fetchApi(`/xpu/${route}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: "{}",
  });
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.error ?? answer.statusText);
  return data;
}

/** Keeps samples coming until the answer is called. */
export function watch() {
  const token = {};
  watchers.add(token);
  renew();
  return () => {
    watchers.delete(token);
    if (watchers.size === 0) stop();
  };
}

/** Whether samples are being asked for. */
export function watching() {
  return timer !== null || requests > 0;
}

function stop() {
  clearTimeout(timer);
  timer = null;
}

async function renew() {
  stop();
  if (watchers.size === 0 || document.hidden) return;
  let pause = RENEW_MS;
  requests += 1;
  try {
    receive(await get(`telemetry?interval_seconds=${setting(INTERVAL)}`));
    failures = 0;
  } catch {
    failures += 1; // the server restarts, or the network is away: ask again, less and less often
    pause = Math.min(LONGEST_PAUSE_MS, 1000 * 2 ** failures);
  } finally {
    requests -= 1;
  }
  stop();
  if (watchers.size > 0 && !document.hidden) timer = setTimeout(renew, pause);
}

function receive(sample) {
  if (samples.length > 0 && sample.taken_at <= samples.at(-1).taken_at) return;
  samples.push(sample);
  if (samples.length > KEPT_SAMPLES) samples.shift();
  events.dispatchEvent(new CustomEvent("sample", { detail: sample }));
}

/** Begins to listen; called once, when the extension is set up. */
export function connect() {
  api.addEventListener("xpu.telemetry", (event) => {
    if (watchers.size > 0 && !document.hidden) receive(event.detail);
  });
  for (const kind of ["placement", "fault"]) {
    api.addEventListener(`xpu.${kind}`, (event) =>
      events.dispatchEvent(new CustomEvent(kind, { detail: event.detail })),
    );
  }
  api.addEventListener("reconnected", () => events.dispatchEvent(new Event("reconnected")));
  document.addEventListener("visibilitychange", renew);
  settingsChanged.addEventListener("change", renew);
}
