// The inspection page: a list of pictures, the one that is looked at, and the category that scores them.
// Whatever comes from a file or from the service is set as text, never as markup.

import { ApiError, call, callPatiently, forgetToken, hasToken, onTokenNeeded } from "./api.js";
import { drawHeatMap, drawThumbnail, pngUrl } from "./draw.js";

const AT_ONCE = 4; // pictures under way, one request each: a bad one sinks no other, and the service can batch them
const BRANCHES = [
  ["s_p", "S_P", "against its counterpart"],
  ["s_n", "S_N", "against normal patches"],
  ["s_text", "S_text", "against words"],
];

const $ = (id) => document.getElementById(id);
const digits = (value, least, most) =>
  value.toLocaleString("en", { minimumSignificantDigits: least, maximumSignificantDigits: most, useGrouping: false });
const number = (value) => digits(value, 4, 4);
const percent = (share) => `${digits(100 * share, 1, 3)}%`;
const when = (iso) => new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

/** An element with text and children in it; strings become text. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

const say = (text) => ($("said").textContent = text);

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

/** Run what a button does; what goes wrong is shown. */
const trying = (action) => async (event) => {
  problem("");
  try {
    await action(event);
  } catch (error) {
    problem(error.message);
    if (!(error instanceof ApiError)) throw error;
  }
};

// ---------------------------------------------------------------- state

let category = null; // the answer of GET v1/categories/{name}
let rate = null; // requested false-positive rate; null until the service has named its own, or the slider is moved
let rows = []; // every picture, of whatever category, as dropped
let chosen = null; // the row that is looked at

const shown = () => rows.filter((row) => row.category === category?.category);
const categoryPath = (name = category.category) => `v1/categories/${encodeURIComponent(name)}`;

// ---------------------------------------------------------------- the category

async function loadCategories() {
  const categories = await call("v1/categories");
  const names = categories.map((found) => found.category);
  $("forget").hidden = !hasToken();
  $("category").replaceChildren(
    make("option", { value: "" }, names.length ? "choose…" : "none yet"),
    ...names.map((name) => make("option", { value: name }, name)),
  );
  $("category").disabled = !names.length;
  const wanted = location.hash.slice(1); // so that a line's own page can be bookmarked
  $("category").value = names.includes(wanted) ? wanted : names.length === 1 ? names[0] : "";
  await chooseCategory();
}

async function chooseCategory() {
  const name = $("category").value;
  category = null;
  rate = null;
  look(null);
  if (name) {
    history.replaceState(null, "", `#${name}`);
    await loadCategory(name);
  }
  showCategory();
  showList();
  look(shown()[0] ?? null);
}

async function loadCategory(name) {
  const found = await call(categoryPath(name));
  if (name === $("category").value) category = found;
}

function showCategory() {
  $("about").hidden = !category;
  $("hint").textContent = category
    ? `Drop pictures of ${category.object_word}.`
    : $("category").disabled
      ? "There are no categories yet. Make one: o2n onboard NAME --references FOLDER"
      : "Choose a category, then drop pictures of its parts.";
  $("serving").textContent = category ? `version ${category.version}` : "";
  if (!category) return;
  $("about-name").textContent = category.category;
  const fact = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)));
  $("facts").replaceChildren(
    fact("prompts say", category.object_word),
    fact("references", category.references),
    fact("calibrated on", `${category.calibration.length} good pictures`),
    fact("profile", category.profile),
  );
  $("refused").hidden = !category.refused;
  $("refused").textContent = `The version published last does not serve: ${category.refused}`;
  $("history").replaceChildren(...category.versions.map(showVersion));
  showRate();
}

function showVersion({ version, created, feedback }) {
  const serves = version === category.version;
  const back = make("button", { type: "button", onclick: trying(() => rollBack(version)) }, "Let it serve");
  back.setAttribute("aria-label", `Let version ${version} serve`);
  const origin = {
    normal: `with a picture that ${feedback?.by} said is normal`,
    withdrawn: `without one that ${feedback?.by} withdrew`,
  }[feedback?.verdict] ?? "onboarded";
  return make("li", { className: serves ? "serves" : "" },
    make("div", {},
      make("code", {}, version), serves ? make("strong", {}, " serves now") : null,
      make("div", { className: "hint" }, `${when(created)}, ${origin}`),
      feedback?.note ? make("q", {}, feedback.note) : null),
    serves ? null : back);
}

async function rollBack(version) {
  const name = category.category;
  if (!confirm(`Let version ${version} of ${name} serve everybody?`)) return;
  await call(`${categoryPath(name)}/rollback?version=${version}`, { method: "POST" });
  await renew(name, version);
  if (category?.category === name) $("rolled").textContent = `Version ${category.version} serves now.`;
}

// ---------------------------------------------------------------- decisions

/** The least rate that the serving version's good pictures can promise. */
const leastRate = () => 1 / (category.calibration.length + 1);

/** The decision on a scored picture, taken anew for the rate that is asked for now if the serving version scored it. */
function decide(row) {
  const { p_value, threshold, is_anomalous, false_positive_rate } = row.answer;
  if (rate === null || row.version !== category?.version) {
    return { isAnomalous: is_anomalous, threshold, rate: false_positive_rate };
  }
  const promised = Math.max(rate, leastRate());
  return { isAnomalous: p_value <= promised, threshold: thresholdFor(promised), rate: promised };
}

/** As `threshold` of o2n/calibration.py: the score above which a picture is anomalous at this rate. */
function thresholdFor(promised) {
  const n = category.calibration.length;
  let rank = Math.floor(promised * (n + 1)) + 1;
  while (rank / (n + 1) > promised) rank--;
  return category.calibration[n - rank];
}

// The slider is logarithmic: from a tenth of a percent, or what can be promised, to one half.
const HIGHEST = 0.5;
const lowest = () => Math.min(Math.max(leastRate(), 0.001), HIGHEST);
const toRate = (place) => Number((lowest() * (HIGHEST / lowest()) ** (place / 100)).toPrecision(2));
const toPlace = (share) => (100 * Math.log(share / lowest())) / Math.log(HIGHEST / lowest()) || 0;

function showRate() {
  const asked = rate ?? shown().find((row) => row.answer)?.answer.false_positive_rate;
  $("rating").hidden = asked === undefined;
  if (asked === undefined) return;
  const promised = Math.max(asked, leastRate());
  $("rate").value = toPlace(promised);
  $("rate").setAttribute("aria-valuetext", percent(promised));
  $("rate-value").textContent = percent(promised);
  const count = category.calibration.length;
  $("rate-note").textContent = `${count} good pictures can promise ${percent(leastRate())} and above.`;
}

// ---------------------------------------------------------------- pictures come in

function add(files) {
  if (!files.length) return;
  if (!category) return problem("Choose a category first, then drop the pictures again.");
  problem("");
  const added = Array.from(files, (file) => newRow(file));
  rows.push(...added);
  say(`${added.length} picture${added.length === 1 ? "" : "s"} added`);
  showList();
  look(chosen ?? added[0]);
  scoreWaiting();
}

function newRow(file) {
  const row = { file, category: category.category, state: "waiting", urls: [], gone: new AbortController() };
  row.thumbnail = make("canvas", { width: 56, height: 56 });
  row.value = make("span", { className: "value" });
  row.badge = make("span", { className: "badge" });
  row.element = make("li", { onclick: () => look(row) },
    row.thumbnail, make("bdi", { className: "name", title: file.name }, file.name), row.value, row.badge);
  row.element.setAttribute("role", "option");
  return row;
}

/** The files of what was dropped, those in folders among it too. */
async function dropped(transfer) {
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  const walk = async (entry) => {
    if (entry.isFile) return files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    const reader = entry.createReader();
    for (;;) {
      const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 at a time
      if (!part.length) return;
      for (const inside of part.filter(({ name }) => !name.startsWith("."))) await walk(inside);
    }
  };
  for (const entry of entries) await walk(entry);
  return files;
}

// ---------------------------------------------------------------- scoring

let underWay = 0;

function scoreWaiting() {
  while (underWay < AT_ONCE) {
    const row = rows.find((waiting) => waiting.state === "waiting");
    if (!row) break;
    underWay++;
    score(row).finally(() => {
      underWay--;
      scoreWaiting();
    });
  }
  showProgress();
}

async function score(row) {
  const { signal } = row.gone;
  become(row, "scoring");
  row.drawn ??= await drawThumbnail(row.thumbnail, row.file);
  const query = new URLSearchParams(["anomaly_map", "counterpart", "reference"].map((part) => ["include", part]));
  if (!row.drawn) query.append("include", "overlay"); // a format that the browser does not show, TIFF for one
  if (rate !== null) query.append("false_positive_rate", rate);
  const body = new FormData();
  body.append("pictures", row.file, nameOf(row));
  try {
    const busy = () => become(row, "scoring", "busy, waiting");
    const path = `${categoryPath(row.category)}/score?${query}`;
    const answer = await callPatiently(path, { method: "POST", body, signal }, busy);
    signal.throwIfAborted();
    keep(row, answer);
  } catch (error) {
    if (signal.aborted) return;
    row.error = error.message;
    become(row, "refused");
    say(`${row.file.name}: refused`);
  }
}

function keep(row, { version, pictures: [{ anomaly_map, counterpart, reference, overlay, ...answer }] }) {
  row.urls.forEach((url) => URL.revokeObjectURL(url));
  row.counterpart = counterpart && pngUrl(counterpart);
  row.reference = reference && pngUrl(reference);
  row.picture = row.drawn ? URL.createObjectURL(row.file) : pngUrl(overlay);
  row.urls = [row.counterpart, row.reference, row.picture].filter(Boolean);
  Object.assign(row, { answer, version, map: anomaly_map });
  become(row, "scored");
  // Somebody published.
  if (row.category === category?.category && version !== category.version) trying(() => renew(row.category))();
}

/** Another version serves: show its history and calibration, and which pictures older ones scored. */
async function renew(name, expected) {
  const left = () => category?.category !== name; // somebody has chosen another meanwhile, which shows itself
  await loadCategory(name);
  // Every gateway looks for itself which version serves, and has it loaded before it does.
  for (let patience = 20; expected && !left() && category.version !== expected && patience; patience--) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    await loadCategory(name);
  }
  if (left()) return;
  showCategory();
  showList();
  look(chosen);
}

const WORDS = { waiting: "waiting", scoring: "scoring…", refused: "refused", scored: "" };

function become(row, state, words = WORDS[state]) {
  row.state = state;
  row.words = words;
  showRow(row);
  showProgress();
  if (state === "scored" && $("sort").value === "score") showList();
  if (state === "scored") showRate();
  if (row === chosen) look(row);
}

function scoreAgain(again) {
  for (const row of again) if (["scored", "refused"].includes(row.state)) become(row, "waiting");
  scoreWaiting();
}

// ---------------------------------------------------------------- the list

function showList() {
  const list = shown();
  if ($("sort").value === "score") list.sort((a, b) => (b.answer?.score ?? -Infinity) - (a.answer?.score ?? -Infinity));
  const focused = document.activeElement; // which a row that is moved would lose
  $("list").replaceChildren(...list.map((row) => row.element));
  if (focused.parentElement === $("list")) focused.focus();
  $("list").hidden = $("tools").hidden = !list.length;
  $("welcome").hidden = list.length > 0;
  list.forEach(showRow);
  showProgress();
  showRate();
}

function showRow(row) {
  const decision = row.state === "scored" ? decide(row) : null;
  const verdict = decision && (decision.isAnomalous ? "anomalous" : "normal");
  row.value.textContent = row.state === "scored" ? number(row.answer.score) : row.words;
  row.badge.textContent = verdict ?? "";
  row.element.className = verdict ? `${row.state} is-${verdict}` : row.state;
  row.element.setAttribute("aria-selected", String(row === chosen));
  row.element.tabIndex = row === chosen ? 0 : -1;
}

function showProgress() {
  const list = shown();
  const done = list.filter((row) => ["scored", "refused"].includes(row.state));
  const refused = list.filter((row) => row.state === "refused").length;
  $("progress").max = list.length || 1;
  $("progress").value = done.length;
  const of = done.length < list.length ? ` of ${list.length}` : "";
  const text = `${done.length - refused}${of} scored${refused ? `, ${refused} refused` : ""}`;
  $("progress").hidden = done.length === list.length;
  if ($("progress-text").textContent === text) return;
  $("progress-text").textContent = text;
  if (list.length && done.length === list.length) say(text);
}

const nameOf = (row) => row.file.name.slice(-200);

function remove(gone) {
  const at = shown().indexOf(chosen);
  for (const row of gone) {
    row.gone.abort();
    row.urls.forEach((url) => URL.revokeObjectURL(url));
  }
  rows = rows.filter((row) => !gone.includes(row));
  if (gone.includes(chosen)) look(shown()[Math.min(at, shown().length - 1)] ?? null);
  showList();
}

// ---------------------------------------------------------------- the picture that is looked at

function look(row) {
  const other = row !== chosen;
  const before = chosen;
  chosen = row;
  if (before) showRow(before);
  $("detail").hidden = !row;
  if (!row) return;
  showRow(row);
  const scored = row.state === "scored";
  $("name").textContent = row.file.name;
  $("figures").hidden = $("scores").hidden = $("feedback").hidden = !scored;
  $("refusal").hidden = row.state !== "refused";
  $("refusal").textContent = row.error ?? "";
  $("once-more").disabled = !["scored", "refused"].includes(row.state);
  showVerdict(row, scored ? decide(row) : null);
  if (other) {
    $("remark").value = "";
    $("thanks").textContent = "";
  }
  if (scored) {
    showFigures(row);
    showScores(row);
  }
}

function showVerdict(row, decision) {
  const { p_value, score, note } = row.answer ?? {};
  const verdict = decision && (decision.isAnomalous ? "Anomalous" : "Normal");
  $("verdict").className = verdict ? `verdict is-${verdict.toLowerCase()}` : "verdict";
  $("decision").textContent = verdict ?? (row.state === "refused" ? "Not scored" : row.words);
  $("reason").textContent = decision
    ? `score ${number(score)}, threshold ${number(decision.threshold)} at ${percent(decision.rate)}, ` +
      `p = ${digits(p_value, 1, 2)}`
    : "";
  $("note").textContent = (decision && rate === null && note) || "";
  const outdated = decision && row.version !== category.version;
  $("outdated").hidden = !outdated;
  $("outdated").textContent = outdated
    ? `Scored by version ${row.version}; ${category.version} serves now. Score it again to compare.`
    : "";
}

function showFigures(row) {
  const { score, threshold } = row.answer;
  for (const id of ["query", "swipe-query"]) source($(id), row.picture);
  source($("counterpart"), row.counterpart);
  source($("reference"), row.reference);
  if (row.map !== $("heat").map) {
    const values = row.map.flat();
    // A picture is as hot as the threshold is far: the hottest patch of a normal one stays below the top of the scale.
    const top = Math.max(...values) + Math.max(0, threshold - score);
    drawHeatMap($("heat"), row.map, Math.min(...values), top);
    $("heat").map = row.map;
  }
}

/** Set a picture unless it is shown already, which would make it flicker. */
function source(image, url) {
  if (image.getAttribute("src") !== url) image.src = url;
}

function shapeFrames() {
  const { naturalWidth, naturalHeight } = $("query");
  if (naturalHeight) $("figures").style.setProperty("--ratio", naturalWidth / naturalHeight);
}

function showOpacity() {
  const opacity = $("opacity").value / 100;
  $("heat").style.opacity = opacity;
  $("query").style.filter = `grayscale(${opacity})`; // so that colours are the heat map's alone
}

function showSwipe() {
  $("figures").style.setProperty("--swipe", `${$("swipe").value}%`);
}

/** What each branch adds to the score, as bars on one scale with the threshold and the good pictures' scores. */
function showScores(row) {
  const decision = decide(row);
  const current = row.version === category.version;
  const { weights } = category;
  const parts = BRANCHES.map(([key, name, what]) => ({ name, what, value: row.answer[key], weight: weights[key] }));
  const normal = current ? category.calibration : [];
  const added = parts.map(({ value, weight }) => value * weight);
  const ends = [0, row.answer.score, decision.threshold, ...added, ...normal];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const place = (value) => (100 * (value - low)) / (high - low || 1);

  const bar = (value, ...marks) => {
    const fill = make("span", { className: "fill" });
    fill.style.left = `${place(Math.min(0, value))}%`;
    fill.style.width = `${place(Math.max(0, value)) - place(Math.min(0, value))}%`;
    return make("td", {}, make("div", { className: "bar" }, fill, ...marks));
  };
  const mark = (value, className, title) => {
    const line = make("span", { className, title });
    line.style.left = `${place(value)}%`;
    return line;
  };
  const line = (className, name, what, weight, value, cell) =>
    make("tr", { className },
      make("th", { scope: "row" }, name, make("span", { className: "hint" }, what)),
      make("td", {}, weight),
      make("td", {}, number(value)),
      cell);

  $("scores").querySelector("tbody").replaceChildren(
    ...parts.map(({ name, what, value, weight }) => line("", name, what, `× ${weight}`, value, bar(value * weight))),
    line("total", "Score", "their sum", "", row.answer.score,
      bar(row.answer.score,
        ...normal.map((score) => mark(score, "tick", `a good picture: ${number(score)}`)),
        mark(decision.threshold, "threshold", `threshold: ${number(decision.threshold)}`))),
  );
}

async function sendFeedback(verdict) {
  const row = chosen;
  const note = $("remark").value.trim();
  const body = new FormData();
  body.append("picture", row.file, nameOf(row));
  body.append("verdict", verdict);
  if (note) body.append("note", note);
  const focused = document.activeElement; // which what is disabled loses
  $("feedback").disabled = true;
  $("thanks").textContent = "Sending…";
  let thanks = "";
  try {
    const { version, by, counts_as_normal: isNormal } = await call(`${categoryPath(row.category)}/feedback`, { method: "POST", body });
    await renew(row.category, version);
    thanks = {
      normal: `Learned as normal, by ${by}: version ${version} serves now.`,
      anomalous: `Kept as anomalous, by ${by}.${isNormal ? " It is among the normal pictures yet: withdraw it." : ""}`,
      withdrawn: `Withdrawn, by ${by}: version ${version} serves now, without it.`,
    }[verdict];
    if (row === chosen) $("remark").value = "";
  } finally {
    $("feedback").disabled = false;
    focused.focus();
    if (row === chosen) $("thanks").textContent = thanks;
  }
}

// ---------------------------------------------------------------- wiring

function signIn(why) {
  $("sign-in-why").textContent = why || $("sign-in-why").textContent;
  $("token").value = "";
  $("sign-in").showModal();
  return new Promise((resolve, reject) => {
    $("sign-in").onsubmit = (event) => {
      const token = $("token").value.trim();
      if (/^[\x21-\x7e]+$/.test(token)) return resolve(token);
      event.preventDefault(); // or no request could be sent with it, nor another token be asked for
      $("sign-in-why").textContent = "There are signs in it that no token has, perhaps unseen ones: paste it again.";
    };
    $("sign-in").oncancel = () => reject(new ApiError(401, "A token is needed: reload the page to enter one."));
  });
}

onTokenNeeded(signIn);
$("forget").onclick = () => {
  forgetToken();
  location.reload();
};

$("category").onchange = trying(chooseCategory);
$("files").onchange = ({ target }) => {
  add([...target.files]);
  target.value = ""; // so that the same file can be chosen again
};
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length) return;
  event.preventDefault();
  add(files);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault(); // or the browser would open a picture that was dropped beside the field
    document.body.classList.toggle("dropping", kind === "dragover");
  });
}
addEventListener("drop", trying(async (event) => add(await dropped(event.dataTransfer))));

$("list").onkeydown = (event) => {
  const list = [...$("list").children];
  const at = list.indexOf(chosen?.element);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: list.length - 1 }[event.key];
  if (to === undefined || !list[to]) return;
  event.preventDefault();
  look(rows.find((row) => row.element === list[to]));
  list[to].focus();
};
$("sort").onchange = showList;
$("again").onclick = () => scoreAgain(shown());
$("clear").onclick = () => remove(shown());
$("once-more").onclick = () => scoreAgain([chosen]);
$("remove").onclick = () => remove([chosen]);

$("rate").oninput = () => {
  rate = toRate(Number($("rate").value));
  showList();
  look(chosen);
};
$("opacity").oninput = showOpacity;
$("swipe").oninput = showSwipe;
$("query").onload = shapeFrames;
$("is-normal").onclick = trying(() => sendFeedback("normal"));
$("is-anomalous").onclick = trying(() => sendFeedback("anomalous"));
$("is-withdrawn").onclick = trying(() => sendFeedback("withdrawn"));
addEventListener("hashchange", trying(loadCategories));

showOpacity();
showSwipe();
trying(loadCategories)();
