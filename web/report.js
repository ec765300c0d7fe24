import { get, newestJob, samples } from "./connection.js";
import { scrubbed } from "./scrub.js";

/** Devices, findings, hooks and the latest job as text to paste into an issue, without what identifies a machine. */
export async function report() {
  const [{ devices, rejected }, { findings }, { hooks }, job] = await Promise.all([
    get("devices"),
    get("doctor"),
    get("hooks"),
    newestJob(),
  ]);
  const anonymous = devices.map(({ uuid, pci_address, ...device }) => device);
  const short = findings.map(({ code, state, what }) => ({ code, state, what }));
  const sample = samples.at(-1)?.devices ?? [];
  return JSON.stringify({ devices: anonymous, rejected, findings: short, hooks, job, sample }, scrubbed, 2);
}
