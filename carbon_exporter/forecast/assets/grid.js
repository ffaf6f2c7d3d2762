// The next days of each grid zone, from api/v1/intensity.

import { clock, day, duration, element, get, number, repeat, say, time } from "./draw.js";

const MOST_ZONES = 12;
const WIDTH = 384;
const HEIGHT = 130;
const TOP = 16;
const BOTTOM = 18;
const HOUR_SECONDS = 3600;
const NO_ZONES =
  "No grid zone is served here. Name zones under intensity.zones in the configuration of the forecast service; " +
  "their next four days are then drawn here, and jobs are forecast with them.";

const place = document.getElementById("zones");

async function refresh() {
  try {
    const { zones } = await get("api/v1/intensity");
    const cards = [];
    for (const { zone, signal } of zones.slice(0, MOST_ZONES)) cards.push(await card(zone, signal));
    if (zones.length > MOST_ZONES) {
      cards.push(element("p", { class: "quiet" }, `${zones.length - MOST_ZONES} more zones are in the JSON.`));
    }
    put(cards.length > 0 ? cards : [element("p", { class: "empty" }, NO_ZONES)]);
    say("grid-problem", "");
  } catch (error) {
    say("grid-problem", `The grid cannot be read: ${error.message}. Tried again every 30 s.`);
  }
}

// What has not changed is left alone.
function put(cards) {
  cards.forEach((fresh, index) => {
    const old = place.children[index];
    if (old === undefined) place.append(fresh);
    else if (!old.isEqualNode(fresh)) old.replaceWith(fresh);
  });
  while (place.children.length > cards.length) place.lastChild.remove();
}

async function card(zone, signal) {
  const title = element("h3", {}, signal === "average" ? zone : `${zone} (${signal})`);
  let told;
  try {
    told = await get(`api/v1/intensity?${new URLSearchParams({ zone, signal })}`);
  } catch (error) {
    return element("article", {}, title, element("p", { class: "note" }, `${error.message}.`));
  }
  const kind = told.estimated ? "estimated" : "measured";
  const current = `Now ${number(told.grams_per_kilowatt_hour)} g/kWh (${told.provider}, ${kind}).`;
  const made = element("article", {}, title, element("p", {}, element("strong", {}, current)));
  if (told.fallback_level > 0) {
    made.append(element("p", { class: "note" }, `A stand-in: ${told.provider} is asked because better sources are silent.`));
  }
  if (told.outlook === null) {
    made.append(element("p", { class: "note" }, "Nothing is known of the hours to come yet."));
  } else {
    const summary = summarised(told.outlook);
    made.append(chart(zone, told.outlook, summary), element("p", {}, summary));
  }
  made.append(element("p", { class: "quiet" }, told.licence));
  return made;
}

function summarised({ first_hour_seconds: first, grams, means, forecaster, low }) {
  const tomorrow = means.find((mean) => mean.horizon_hours === 24);
  const said = [];
  if (tomorrow) {
    const band = tomorrow.low === null ? "" : ` (${number(tomorrow.low)} to ${number(tomorrow.high)})`;
    said.push(`Next 24 h: ${number(tomorrow.grams)}${band} g/kWh.`);
  }
  const least = Math.min(...grams);
  if (Math.max(...grams) > least) {
    said.push(`Lowest: ${time(first + grams.indexOf(least) * HOUR_SECONDS)}, ${number(least)} g/kWh.`);
  } else {
    said.push("A flat line: nothing is known of its course.");
  }
  if (low.length === 0) said.push("No band yet: too little history.");
  said.push(`Forecast: ${forecaster}.`);
  return said.join(" ");
}

function chart(zone, { first_hour_seconds: first, grams, low, high }, summary) {
  const most = Math.max(...grams, ...high, 1) * 1.05;
  const x = (hour) => Math.round((10 * hour * WIDTH) / grams.length) / 10;
  const y = (value) => Math.round(10 * (HEIGHT - BOTTOM - (value / most) * (HEIGHT - BOTTOM - TOP))) / 10;
  const step = (values) => values.map((value, hour) => `${x(hour)} ${y(value)}L${x(hour + 1)} ${y(value)}`);
  const over = `${zone}: the next ${duration(grams.length * HOUR_SECONDS)}. ${summary}`;
  const drawn = element("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": over });
  for (let hour = 0; hour < grams.length; hour += 1) {
    const seconds = first + hour * HOUR_SECONDS;
    if (clock(seconds) !== "00:00") continue;
    drawn.append(element("path", { class: "midnight", d: `M${x(hour)} ${TOP}V${HEIGHT - BOTTOM}` }));
    if (grams.length - hour >= 18) drawn.append(element("text", { x: x(hour) + 3, y: HEIGHT - 4 }, day(seconds)));
  }
  if (low.length > 0) {
    const back = low.map((value, hour) => `${x(hour + 1)} ${y(value)}L${x(hour)} ${y(value)}`).reverse();
    drawn.append(element("path", { class: "band", d: `M${step(high).join("L")}L${back.join("L")}Z` }));
  }
  drawn.append(
    element("path", { class: "axis", d: `M0 ${y(0)}H${WIDTH}` }),
    element("path", { class: "curve", d: `M${step(grams).join("L")}` }),
    element("text", { x: 0, y: 11 }, `${number(most / 1.05)} g/kWh`),
  );
  return drawn;
}

repeat(refresh);
