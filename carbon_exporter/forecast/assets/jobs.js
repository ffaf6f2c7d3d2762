// The table of the jobs, from api/v1/jobs.

import {
  duration, element, energy, energyInterval, get, mass, massInterval, number, repeat, say, time, timeInterval,
} from "./draw.js";

const MOST_ROWS = 200;
const OLD_SECONDS = 300;
const WHY_NONE = {
  forecast: "",
  finished: "",
  no_epochs: "No forecast yet: no epoch has ended that its energy is known of.",
  no_energy: "No forecast: no node counts energy for this name.",
};
const BASES = {
  group: (runs) => `Learnt from ${runs} ended ${runs === 1 ? "run" : "runs"} of its group`,
  fleet: (runs) => `Learnt from ${runs} ended ${runs === 1 ? "run" : "runs"} of other groups`,
  builtin: () => "General figures: too few ended runs to learn from",
  measured: () => "Measured: it has ended",
};

const search = document.getElementById("search");
const body = document.querySelector("#jobs tbody");
let asking = new AbortController();

async function refresh() {
  asking.abort();
  asking = new AbortController();
  const sought = search.value.trim();
  try {
    const path = `api/v1/jobs?${new URLSearchParams({ limit: MOST_ROWS, search: sought })}`;
    show(await get(path, asking.signal), sought);
    say("problem", "");
  } catch (error) {
    if (error.name === "AbortError") return;
    const shown = body.rows.length > 0 ? " What is shown is older." : "";
    say("problem", `The jobs cannot be read: ${error.message}. Tried again every 30 s.${shown}`);
  }
}

function show({ jobs, matching, total, nowSeconds }, sought) {
  patch(jobs.map((job) => row(job, nowSeconds)));
  document.getElementById("jobs").hidden = jobs.length === 0;
  const cut = matching > jobs.length ? `The first ${jobs.length} of ${number(matching)} jobs; filter to see others.` : "";
  const found = sought === "" ? `${number(matching)} ${matching === 1 ? "job" : "jobs"}.` : `${matching} of ${total} jobs match.`;
  say("status", jobs.length === 0 ? "" : cut || found);
  say("no-jobs", jobs.length > 0 ? "" : total > 0 ? `No job's name or group holds “${sought}”.` : NO_JOBS);
  const newest = Math.max(...jobs.filter((job) => job.outcome === "forecast").map((job) => job.made_seconds ?? 0));
  say("age", newest > 0 ? `Newest forecast: ${time(newest)}, ${duration(Math.max(0, nowSeconds - newest))} ago.` : "");
}

const NO_JOBS =
  "No training job is known yet. A job is listed here once a node counts its energy or it pushes its epochs " +
  "(carbon-exporter push, or carbon_exporter.push in its script). If jobs should be here, look at " +
  "carbon_forecast_query_errors_total on the metrics page: can the service reach its engine?";

// Put `rows` into the table; what has not changed is left alone, so that nothing flickers and the focus stays.
function patch(rows) {
  const focused = document.activeElement?.closest?.("tr")?.dataset.job;
  const before = new Map([...body.rows].map((old) => [old.dataset.job, old]));
  rows.forEach((fresh, index) => {
    const old = before.get(fresh.dataset.job);
    before.delete(fresh.dataset.job);
    const kept = old?.isEqualNode(fresh) ? old : fresh;
    if (old && old !== kept) old.replaceWith(kept);
    if (body.rows[index] !== kept) body.insertBefore(kept, body.rows[index] ?? null);
  });
  before.forEach((gone) => gone.remove());
  if (focused === undefined || document.activeElement?.closest?.("tr")) return;
  const same = [...body.rows].find((one) => one.dataset.job === focused);
  same?.querySelector("a").focus({ preventScroll: true });
}

function row(job, nowSeconds) {
  const made = element("tr", { role: "row" });
  made.dataset.job = job.name;
  made.append(
    name(job, nowSeconds),
    cell("Epochs", ...epochs(job)),
    cell("So far", ...soFar(job)),
    cell("At its planned end", ...atEnd(job)),
    cell("Ends", ...ends(job)),
    cell("How sure", ...howSure(job)),
  );
  return made;
}

function cell(label, ...children) {
  return element("td", { role: "cell", "data-label": label }, element("div", {}, ...children));
}

const line = (text, kind = "") => element("div", kind ? { class: kind } : {}, text);
const unknown = () => [element("span", { class: "quiet" }, "unknown")];

function name(job, nowSeconds) {
  const path = `api/v1/jobs/${encodeURIComponent(job.name)}/forecast`;
  const head = element("th", { role: "rowheader", scope: "row" }, element("a", { href: path }, job.name));
  if (job.group) head.append(line(`group ${job.group}`, "quiet"));
  const reason = WHY_NONE[job.outcome] ?? "No forecast.";
  if (reason) head.append(line(reason, "note"));
  const age = nowSeconds - job.made_seconds;
  const warnings = [...job.warnings];
  if (job.outcome === "forecast" && age > OLD_SECONDS) warnings.push(`This forecast is ${duration(age)} old.`);
  if (warnings.length > 0) {
    const items = warnings.map((warning) => element("li", {}, warning));
    head.append(element("ul", { class: "warnings", "aria-label": "Warnings" }, ...items));
  }
  return head;
}

// A number of epochs that cannot be is a dash; the job's name has the reason below it.
const MOST_EPOCHS = 1e9;
const count = (value) => (value === null || value < 0 || value > MOST_EPOCHS ? "–" : number(value));

function epochs({ epochs_completed: done, epochs_planned: planned, outcome }) {
  if (outcome === "invalid_value") return [`${count(done)} of ${planned === 0 ? "–" : count(planned)}`];
  if (done === null) return unknown();
  if (planned === null || count(planned) === "–" || planned === 0) return [count(done)];
  return [`${count(done)} of ${count(planned)}`, bar([["spent", 0, done]], [], planned)];
}

function soFar({ grams, joules, emissions_basis: basis }) {
  const told = [];
  if (grams !== null) told.push(line(mass(grams), "main"));
  if (joules !== null) told.push(line(energy(joules)));
  if (grams !== null && basis === "mixed") told.push(line("of intensities on different bases", "note"));
  return told.length > 0 ? told : unknown();
}

function atEnd(job) {
  if (job.forecast === null) return job.budget_grams === null ? unknown() : [line(`budget ${mass(job.budget_grams)}`)];
  const { grams, joules } = job.forecast;
  const told = [];
  if (grams !== null) {
    told.push(quantity(...massInterval(grams), "main"), budgetBar(grams, job.grams ?? 0, job.budget_grams));
    if (job.budget_grams !== null) told.push(verdict(grams, job.budget_grams));
  } else {
    told.push(budgetBar(joules, job.joules ?? 0, null));
    if (job.budget_grams !== null) told.push(line(`budget ${mass(job.budget_grams)}; grams are not known`, "quiet"));
  }
  told.push(quantity(...energyInterval(joules)));
  if (job.expected !== null) told.push(expected(job.expected));
  return told;
}

function quantity(median, interval, kind = "") {
  const text = element("div", kind ? { class: kind } : {}, median);
  if (interval) text.append(" ", element("span", { class: "interval" }, `(${interval})`));
  return text;
}

function expected({ grams, joules }) {
  const [median, interval] = grams === null ? energyInterval(joules) : massInterval(grams);
  return line(`${median}${interval ? ` (${interval})` : ""} expected: its group tends to stop early`, "note");
}

function verdict(grams, budget) {
  const [kind, text] =
    grams.low > budget ? ["over", "▲ over"]
    : grams.median > budget ? ["over", "▲ probably over"]
    : grams.high > budget ? ["near", "◆ may go over"]
    : ["within", "● within"];
  return line(`${text} the budget of ${mass(budget)}`, `verdict ${kind}`);
}

function budgetBar({ low, median, high }, spent, budget) {
  const marks = [["median", median]];
  if (budget !== null) marks.push(["budget", budget]);
  return bar([["band", low, high], ["spent", 0, spent]], marks, Math.max(high, spent, budget ?? 0) * 1.04);
}

// From 0 to `most`: areas [class, begin, end] and marks [class, place]. What it shows stands beside it as text.
function bar(areas, marks, most) {
  const place = (value) => Math.round((1000 * Math.min(Math.max(value, 0), most)) / (most || 1)) / 10;
  return element(
    "svg",
    { class: "bar", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
    element("rect", { class: "track", width: 100, height: 12 }),
    ...areas.map(([kind, begin, end]) => {
      const x = place(begin);
      return element("rect", { class: kind, x, width: Math.max(place(end) - x, 0), height: 12 });
    }),
    ...marks.map(([kind, value]) => element("path", { class: kind, d: `M${place(value)} 0V12` })),
  );
}

function ends({ forecast, ended_seconds: ended }) {
  if (ended !== null) return [line(time(ended), "main"), line("has ended", "quiet")];
  if (!forecast?.end_seconds) return unknown();
  const [median, interval] = timeInterval(forecast.end_seconds);
  return [line(median, "main"), ...(interval ? [line(interval, "interval")] : [])];
}

function howSure({ basis, calibration_runs: runs, epochs_observed: observed }) {
  if (basis === null) return unknown();
  const told = [line(BASES[basis] ? BASES[basis](runs) : basis)];
  if (basis !== "measured") told.push(line(`after ${number(observed)} ${observed === 1 ? "epoch" : "epochs"}`, "quiet"));
  return told;
}

document.getElementById("time-zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
const again = repeat(refresh);
let typing = 0;
search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(again, 200);
});
