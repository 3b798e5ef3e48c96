// Keeps a page current: fetches it anew when something changed, appends log lines, shows times as ages.
"use strict";
(() => {
  const main = document.getElementById("main");
  const live = document.getElementById("live");
  const state = document.getElementById("state");

  const length = (seconds) => {
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return s + " s";
    if (s < 3600) return Math.floor(s / 60) + " min " + (s % 60 ? (s % 60) + " s" : "");
    if (s < 172800) return Math.floor(s / 3600) + " h";
    return Math.floor(s / 86400) + " d";
  };
  const ages = () => {
    for (const time of document.querySelectorAll("time")) {
      const from = Date.parse(time.dateTime);
      const to = time.dataset.to ? Date.parse(time.dataset.to) : Date.now();
      if (Number.isNaN(from)) continue;
      time.title = time.dateTime;
      time.textContent = length((to - from) / 1000) + (time.classList.contains("span") ? "" : " ago");
    }
  };

  let busy = false, again = false;
  const refresh = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      if (fresh && answer.ok) {
        const open = new Map([...live.querySelectorAll("details[id]")].map((d) => [d.id, d.open]));
        for (const d of fresh.querySelectorAll("details[id]")) if (open.has(d.id)) d.open = open.get(d.id);
        const focus = document.activeElement && live.contains(document.activeElement)
          ? document.activeElement.getAttribute("href") : null;
        live.replaceChildren(...fresh.childNodes);
        if (focus) for (const a of live.querySelectorAll("a")) if (a.getAttribute("href") === focus) { a.focus(); break; }
        logs(page);
        ages();
      }
    } catch (_) { /* the event source says that the server is gone */ }
    busy = false;
    if (again) { again = false; refresh(); }
  };

  // Logs are followed once each; those of new jobs are added to the page.
  const followed = new Set();
  const follow = (pre) => {
    followed.add(pre.dataset.stream);
    const source = new EventSource(pre.dataset.stream);
    pre.scrollTop = pre.scrollHeight;
    // The stream begins with the last lines anew, after a lost connection too.
    source.onopen = () => { pre.textContent = ""; pre.classList.remove("none"); };
    source.onmessage = (event) => {
      const bottom = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 20;
      pre.append(event.data + "\n");
      while (pre.childNodes.length > 5000) pre.firstChild.remove();
      if (bottom) pre.scrollTop = pre.scrollHeight;
    };
    source.addEventListener("end", () => source.close());
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) source.close(); };
  };
  const logs = (page) => {
    for (const pre of page.querySelectorAll("pre[data-stream]")) {
      if (followed.has(pre.dataset.stream)) continue;
      if (page !== document) main.append(document.adoptNode(pre.closest("section")));
      follow(pre);
    }
  };

  const watch = main.dataset.watch;
  if (watch) {
    const source = new EventSource("/events?kinds=" + encodeURIComponent(watch).replaceAll("%2C", ","));
    source.onopen = () => { state.textContent = "live"; };
    source.onerror = () => { state.textContent = "connecting …"; };
    source.onmessage = refresh;
  }
  const every = live.querySelector("[data-every]");
  if (every) setInterval(refresh, Number(every.dataset.every) * 1000);

  const button = document.getElementById("theme");
  const root = document.documentElement;
  const saved = localStorage.getItem("theme");
  if (saved) root.dataset.theme = saved;
  button.hidden = false;
  button.onclick = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
  };

  logs(document);
  ages();
  setInterval(ages, 1000);
})();
