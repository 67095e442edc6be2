// What makes the admin live; all of it works without this file. Fetches the page's block "live" again every other
// second, says how long ago things were, and follows what is typed into fields with suggestions.
"use strict";
(() => {
  const EVERY_MS = 2000;
  const SLOWEST_MS = 30000;
  let ahead = 0; // the server's clock minus this browser's, in milliseconds

  // --- how long ago ---
  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [0, "s"]];
  function agoText(then) {
    const seconds = Math.max(0, Math.round((Date.now() + ahead - then) / 1000));
    const [size, unit] = UNITS.find(([least]) => seconds >= least);
    return `${Math.floor(seconds / (size || 1))} ${unit} ago`;
  }
  function showAges() {
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const text = agoText(Date.parse(time.dateTime));
      if (time.textContent !== text) time.textContent = text;
    }
  }

  // --- the live block ---
  const live = document.querySelector("#live[data-live]");
  let tag = "";
  let pause = EVERY_MS;
  async function refresh() {
    const headers = { "X-Live": "1" };
    if (tag) headers["If-None-Match"] = tag;
    const answer = await fetch(location.href, { headers, redirect: "error", cache: "no-store" });
    const date = Date.parse(answer.headers.get("Date"));
    if (date) ahead = Math.round((date - Date.now()) / 1000) * 1000;
    if (answer.status === 304) return;
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    tag = answer.headers.get("ETag") || "";
    replace(await answer.text());
  }
  function replace(text) {
    const opened = [...live.querySelectorAll("details[open]")].map(pathOf);
    const focused = live.contains(document.activeElement) ? pathOf(document.activeElement) : "";
    const scrolled = [...live.querySelectorAll("pre")].map((pre) => [pathOf(pre), pre.scrollTop, pre.scrollLeft]);
    live.replaceChildren(...new DOMParser().parseFromString(text, "text/html").body.childNodes);
    for (const path of opened) live.querySelector(path)?.setAttribute("open", "");
    for (const [path, top, left] of scrolled) live.querySelector(path)?.scrollTo(left, top);
    if (focused) live.querySelector(focused)?.focus({ preventScroll: true });
    showAges();
  }
  // Where an element stands in the block: what a person opened stays open when the block is replaced.
  function pathOf(element) {
    const steps = [];
    for (let at = element; at !== live; at = at.parentElement) {
      steps.unshift(`:nth-child(${[...at.parentElement.children].indexOf(at) + 1})`);
    }
    return `#live > ${steps.join(" > ")}`;
  }
  async function loop() {
    try {
      if (!document.hidden && !String(getSelection())) await refresh();
      pause = EVERY_MS;
      live.classList.remove("stale");
    } catch {
      pause = Math.min(pause * 2, SLOWEST_MS); // the server is away, or asks to log in again
      live.classList.add("stale");
    }
    setTimeout(loop, pause);
  }

  // --- suggestions ---
  for (const list of document.querySelectorAll("datalist[data-names]")) {
    const input = document.querySelector(`input[list="${list.id}"]`);
    let asked = 0;
    input.addEventListener("input", async () => {
      const mine = ++asked;
      const answer = await fetch(`${list.dataset.names}?q=${encodeURIComponent(input.value)}`);
      if (!answer.ok || mine !== asked) return;
      const { names } = await answer.json();
      list.replaceChildren(...names.map((name) => Object.assign(document.createElement("option"), { value: name })));
    });
  }

  showAges();
  setInterval(showAges, 1000);
  if (live) setTimeout(loop, EVERY_MS);
})();
