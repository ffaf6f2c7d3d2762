// Elements, numbers and times as people read them. Text from outside only ever becomes a text node or an attribute.

const SVG = "http://www.w3.org/2000/svg";
const SVG_NAMES = new Set(["svg", "rect", "path", "text"]);
const JOULES_PER_WATT_HOUR = 3600;

export function element(name, attributes = {}, ...children) {
  const made = SVG_NAMES.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

// Show `text` in the element `id`, or hide it; untouched where it is the same, so that it is not read out again.
export function say(id, text) {
  const place = document.getElementById(id);
  if (place.textContent !== text) place.textContent = text;
  place.hidden = text === "";
}

// The JSON at `path`, with the server's own time in Unix seconds; throws an Error of one line.
export async function get(path, signal) {
  const response = await fetch(path, { signal, headers: { Accept: "application/json" } });
  const told = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(told.error ?? `${path} answered ${response.status}`);
  return { ...told, nowSeconds: Date.parse(response.headers.get("Date")) / 1000 || Date.now() / 1000 };
}

// What no job can mean is still told, as short as it is absurd: "1e+300".
const MOST_PLAIN = 1e12;
const LEAST_PLAIN = 1e-6;
const short = (value) => Number(value.toPrecision(3)).toExponential();
const plain = (value) => value === 0 || (Math.abs(value) < MOST_PLAIN && Math.abs(value) >= LEAST_PLAIN);

export function number(value) {
  if (!plain(value)) return short(value);
  return Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 15 });
}

// Values of one quantity in the unit that suits the largest, which has three digits and the others as many decimals:
// [["0.90", "1.00", "1.15"], "kg"].
function scaled(values, units) {
  const largest = Math.max(...values.map(Math.abs));
  const [size, unit] = units.findLast(([least]) => largest >= least * 0.9995) ?? units[0];
  const digits = Math.floor(Math.log10(Number((largest / size).toPrecision(3)) || 1));
  const decimals = Math.min(Math.max(2 - digits, 0), 6);
  const format = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  const told = (value) => (plain(largest / size) ? value.toLocaleString("en", format) : short(value));
  return [values.map((value) => told(value / size)), unit];
}

const MASS = [[1e-3, "mg"], [1, "g"], [1e3, "kg"], [1e6, "t"], [1e9, "kt"]];
const ENERGY = [[1, "Wh"], [1e3, "kWh"], [1e6, "MWh"], [1e9, "GWh"]];

export function mass(grams) {
  const [[shown], unit] = scaled([grams], MASS);
  return `${shown}\u00a0${unit}`;
}

export function energy(joules) {
  const [[shown], unit] = scaled([joules / JOULES_PER_WATT_HOUR], ENERGY);
  return `${shown}\u00a0${unit}`;
}

function interval({ low, median, high }, units) {
  const [shown, unit] = scaled([low, median, high], units);
  if (shown[0] === shown[2]) return [`${shown[1]}\u00a0${unit}`, ""];
  return [`${shown[1]}\u00a0${unit}`, `${shown[0]} to ${shown[2]}`];
}

export const massInterval = (quantiles) => interval(quantiles, MASS);

export function energyInterval({ low, median, high }) {
  const hours = JOULES_PER_WATT_HOUR;
  return interval({ low: low / hours, median: median / hours, high: high / hours }, ENERGY);
}

const DAY = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const LAST_SECONDS = 8.64e12;

export function day(seconds) {
  return DAY.format(seconds * 1000);
}

export function clock(seconds) {
  return CLOCK.format(seconds * 1000);
}

export function time(seconds) {
  if (Math.abs(seconds) > LAST_SECONDS) return "never";
  const years = seconds - Date.now() / 1000 > 300 * 86400 ? ` ${new Date(seconds * 1000).getFullYear()}` : "";
  return `${day(seconds)}${years}, ${clock(seconds)}`;
}

// The time, and its interval; of one day only the clock is repeated.
export function timeInterval({ low, median, high }) {
  if (high - low < 60) return [time(median), ""];
  if (high > LAST_SECONDS) return [time(median), `${time(low)} to never`];
  const oneDay = day(low) === day(high) && high - low < 86400;
  return [time(median), oneDay ? `${clock(low)} to ${clock(high)}` : `${time(low)} to ${time(high)}`];
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

// Ask now and every 30 s while the page is looked at.
export function repeat(refresh) {
  let timer = 0;
  const again = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    await refresh();
    clearTimeout(timer);
    timer = setTimeout(again, 30_000);
  };
  document.addEventListener("visibilitychange", again);
  again();
  return again;
}
