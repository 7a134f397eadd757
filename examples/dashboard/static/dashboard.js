// What a page does once it is there: take what the server sends, point at charts, move by keyboard.
"use strict";

(() => {
  const root = document.documentElement;
  const find = (selector, from = document) => from.querySelector(selector);
  root.classList.add("scripted");

  // A patch leaves alone what the person has done: opened details, the focus, what is being typed.
  Idiomorph.defaults.ignoreActiveValue = true;
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) =>
    !(name === "open" && node.localName === "details" && node.isConnected && !node.closest(".menu"));

  // ------------------------------------------------------------------------------------ the stream

  const SAID = {
    connecting: "Connecting",
    none: "",
    live: "Live",
    polling: "Every two seconds",
    down: "No answers from the database",
    lost: "Server unreachable",
  };
  let source = null;
  let address = null;

  let before = "connecting";
  let heard = null;

  function say(status) {
    const shown = find("#status");
    if (!shown) return;
    if (status === "live" || status === "polling") heard = new Date();
    shown.dataset.status = status;
    find("b", shown).textContent = SAID[status];
    const lost = find("#lost");
    if (status === "lost" && lost.hidden) {
      const since = heard ? ` What you see is as of ${heard.toLocaleTimeString("en-GB")}, your time.` : "";
      lost.textContent = `The server of this page cannot be reached.${since} As soon as it is back, the page goes on by itself.`;
    }
    if (status !== "connecting") lost.hidden = status !== "lost";
    // Of what is well nobody needs to be told, unless it was not.
    if (status === "down") announce(SAID.down);
    if (status === "live" && (before === "down" || before === "lost")) announce("Live again");
    if (status !== "connecting") before = status;
  }

  function patch(name, html) {
    const place = document.getElementById(`live-${name}`);
    if (!place || pointer.dragging === name) return;
    Idiomorph.morph(place, html, { morphStyle: "innerHTML" });
    if (pointer.chart && !pointer.chart.isConnected) pointer.chart = null;
    if (pointer.chart && place.contains(pointer.chart)) point(pointer.chart, pointer.index);
  }

  function follow() {
    const wanted = find("[data-stream]")?.dataset.stream ?? null;
    if (wanted === address && source && source.readyState !== EventSource.CLOSED) return;
    source?.close();
    source = null;
    address = wanted;
    if (wanted === null) {
      say("none");
      return;
    }
    say("connecting");
    source = new EventSource(wanted);
    source.onmessage = (event) => {
      // The stream of the page before goes on until the new one has settled: it is not about this.
      if (find("[data-stream]")?.dataset.stream !== wanted) return;
      const message = JSON.parse(event.data);
      if (message.panel) patch(message.panel, message.html);
      if (message.status) say(message.status);
    };
    source.onerror = () => {
      say("lost");
      // A browser tries again by itself, unless the server has answered with an error.
      if (source.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
    };
  }

  // Nobody looks at a page in the background: the server need not ask for it.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = null;
      address = null;
    } else follow();
  });
  window.addEventListener("pagehide", () => source?.close());

  // ----------------------------------------------------------------------------------- the address

  const arrived = (event) => {
    // What was asked for is said; what is patched later is not.
    const more = event?.detail?.target?.closest?.(".more");
    if (more) opened(more, event.detail.requestConfig?.elt);
    else if (event) announce(find("#live-events .headline, #title")?.textContent ?? "");
    delete root.dataset.loading;
    hideTip();
    zones();
    rove();
    follow();
  };

  // Whether a table or a comparison is there is said by the link that opens it.
  function opened(more, by) {
    for (const link of document.querySelectorAll(`[data-open="${more.id}"]`))
      link.setAttribute("aria-expanded", String(link === by));
    const heading = find("h3", more);
    if (heading) announce(`${heading.textContent} is below`);
  }
  document.addEventListener("htmx:afterSettle", arrived);
  document.addEventListener("htmx:historyRestore", arrived);
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.boosted) root.dataset.loading = "";
  });
  for (const failure of ["htmx:sendError", "htmx:sendAbort", "htmx:timeout"])
    document.addEventListener(failure, (event) => {
      delete root.dataset.loading;
      if (failure === "htmx:sendError") say("lost");
    });

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
  });

  // The browser's own time zone, if the list has not got it.
  function zones() {
    const select = find("[data-zones]");
    const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
    if (!select || !own || [...select.options].some((option) => option.value === own)) return;
    select.prepend(new Option(own.replaceAll("_", " "), own));
    if (!find("option[selected]", select)) select.value = "UTC";
  }

  // ------------------------------------------------------------- tables, comparisons, light or dark

  document.addEventListener("click", (event) => {
    const close = event.target.closest("[data-close]");
    if (close) {
      const more = close.closest(".more");
      const by = find(`[data-open="${more.id}"][aria-expanded="true"]`) ?? find(`[data-open="${more.id}"]`);
      more.replaceChildren();
      opened(more);
      by?.focus();
    }
    if (event.target.closest("#theme")) {
      const dark = matchMedia("(prefers-color-scheme: dark)").matches;
      const now = root.dataset.theme || (dark ? "dark" : "light");
      root.dataset.theme = now === "dark" ? "light" : "dark";
      document.cookie = `theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict`;
    }
    const menu = find(".menu[open]");
    if (menu && !menu.contains(event.target)) menu.open = false;
  });

  // --------------------------------------------------------------------------------------- charts

  const pointer = { chart: null, index: 0, dragging: null, from: 0 };
  const number = new Intl.NumberFormat("en");

  // Where the buckets of a chart begin, and the last one ends: minutes since 1970, then steps.
  function edgesOf(chart) {
    let minutes = 0;
    return chart.dataset.edges.split(",").map((step) => (minutes += Number(step)) * 60_000);
  }
  const countOf = (chart) => edgesOf(chart).length - 1;

  function called(chart, index) {
    const edges = edgesOf(chart);
    const length = edges[index + 1] - edges[index];
    const format = { timeZone: chart.dataset.zone, weekday: "short", day: "numeric", month: "short" };
    if (length > 20 * 86_400_000) Object.assign(format, { weekday: undefined, day: undefined, year: "numeric" });
    else if (length < 82_800_000) Object.assign(format, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    return new Intl.DateTimeFormat("en-GB", format).format(edges[index]);
  }

  // The address of a page for the buckets from one to another.
  function addressOf(chart, template, from, to) {
    const edges = edgesOf(chart);
    const url = new URL(template, location.origin);
    const iso = (time) => new Date(time).toISOString().replace(":00.000Z", "Z");
    url.searchParams.set("since", iso(edges[Math.min(from, to)]));
    url.searchParams.set("until", iso(edges[Math.max(from, to) + 1]));
    return url.pathname + url.search;
  }

  function span(rect, from, to, count) {
    rect.setAttribute("x", `${(100 * from) / count}%`);
    rect.setAttribute("width", `${(100 * (to - from)) / count}%`);
  }

  function point(chart, index) {
    const count = countOf(chart);
    if (count < 1) return;
    index = Math.max(0, Math.min(count - 1, index));
    Object.assign(pointer, { chart, index });
    span(find(".cursor", chart), index, index + 1, count);
    const lines = JSON.parse(chart.dataset.series).filter((each) => each.values[index] > 0);
    const all = lines.reduce((sum, each) => sum + each.values[index], 0);
    const rows = [...lines].reverse().map((each) => [each.color, each.name, each.values[index]]);
    if (rows.length !== 1) rows.push([null, rows.length ? "All" : "Nothing", all]);
    const plot = find(".plot", chart).getBoundingClientRect();
    const x = plot.left + (plot.width * (index + 0.5)) / count;
    showTip(called(chart, index), rows, x, plot.top + 8);
  }

  function showTip(title, rows, x, y) {
    const tip = find("#tip");
    const heading = document.createElement("h4");
    heading.textContent = title;
    tip.replaceChildren(heading);
    for (const [color, name, value] of rows) {
      const row = document.createElement("div");
      const swatch = document.createElement("i");
      if (color !== null) swatch.className = `c${color}`;
      const amount = document.createElement("b");
      amount.textContent = number.format(value);
      row.append(swatch, name, amount);
      tip.append(row);
    }
    place(tip, x, y);
  }

  function place(tip, x, y) {
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = x + 14 + width > innerWidth - 8 ? x - 14 - width : x + 14;
    tip.style.translate = `${Math.max(8, left)}px ${Math.max(8, Math.min(y, innerHeight - height - 8))}px`;
  }

  function hideTip() {
    const tip = find("#tip");
    if (tip) tip.hidden = true;
    if (pointer.chart) find(".cursor", pointer.chart)?.setAttribute("width", 0);
    pointer.chart = null;
  }

  function indexAt(chart, event) {
    const plot = find(".plot", chart).getBoundingClientRect();
    const count = countOf(chart);
    return Math.max(0, Math.min(count - 1, Math.floor(((event.clientX - plot.left) / plot.width) * count)));
  }

  function go(url) {
    htmx.ajax("GET", url, { source: document.body, target: "body", swap: "morph:innerHTML", push: url });
  }

  document.addEventListener("pointermove", (event) => {
    if (!(event.target instanceof Element)) return;
    const chart = pointer.dragging ? pointer.chart : event.target.closest(".chart");
    if (chart && (pointer.dragging || event.target.closest(".plot"))) {
      const index = indexAt(chart, event);
      point(chart, index);
      if (pointer.dragging)
        span(find(".selection", chart), Math.min(pointer.from, index), Math.max(pointer.from, index) + 1, countOf(chart));
      return;
    }
    const tipped = event.target.closest("[data-tip]");
    if (tipped) tipAt(tipped);
    else if (pointer.chart !== document.activeElement) hideTip();
  });

  function tipAt(element) {
    const [title, said] = element.dataset.tip.split("|");
    const tip = find("#tip");
    const heading = document.createElement("h4");
    const row = document.createElement("div");
    heading.textContent = title;
    row.textContent = said;
    tip.replaceChildren(heading, row);
    const box = element.getBoundingClientRect();
    place(tip, box.right, box.top);
  }

  document.addEventListener("pointerdown", (event) => {
    const chart = event.target.closest?.(".plot")?.closest(".chart");
    if (!chart || event.button !== 0) return;
    const index = indexAt(chart, event);
    Object.assign(pointer, { chart, index, from: index });
    if (chart.dataset.zoom && event.pointerType === "mouse") {
      pointer.dragging = chart.dataset.chart;
      event.preventDefault();
      chart.focus({ preventScroll: true });
    }
  });
  document.addEventListener("pointerup", (event) => {
    const { chart, from, dragging } = pointer;
    pointer.dragging = null;
    if (!chart || !(dragging || event.target.closest?.(".plot"))) return;
    find(".selection", chart)?.setAttribute("width", 0);
    const index = indexAt(chart, event);
    if (dragging && Math.abs(index - from) > 0) go(addressOf(chart, chart.dataset.zoom, from, index));
    else if (event.pointerType === "mouse" && index === from) go(addressOf(chart, chart.dataset.drill, index, index));
  });
  document.addEventListener("pointercancel", () => (pointer.dragging = null));

  // ------------------------------------------------------------------------------------- keyboard

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      hideTip();
      const menu = find(".menu[open]");
      if (menu) {
        menu.open = false;
        find("summary", menu).focus();
      }
      return;
    }
    const chart = event.target.closest?.(".chart");
    const count = chart ? countOf(chart) : 0;
    if (chart && count) {
      const now = pointer.chart === chart ? pointer.index : count;
      const to = { ArrowLeft: now - 1, ArrowRight: Math.min(now + 1, count - 1), Home: 0, End: count - 1 }[event.key];
      if (to !== undefined) {
        event.preventDefault();
        point(chart, Math.max(0, to));
        const lines = JSON.parse(chart.dataset.series).map((each) => `${each.name} ${number.format(each.values[pointer.index])}`);
        announce(`${called(chart, pointer.index)}: ${lines.join(", ")}`);
      } else if (event.key === "Enter" && pointer.chart === chart) {
        event.preventDefault();
        go(addressOf(chart, chart.dataset.drill, pointer.index, pointer.index));
      } else if (event.key === "+" && chart.dataset.zoom) {
        // A quarter of the buckets, around the one that is pointed at.
        const middle = pointer.chart === chart ? pointer.index : count - 1;
        const half = Math.max(1, Math.floor(count / 8));
        go(addressOf(chart, chart.dataset.zoom, Math.max(0, middle - half), Math.min(count - 1, middle + half)));
      } else if (event.key === "-" && chart.dataset.zoom) {
        find('[aria-label="Zoom out"]')?.click();
      }
      return;
    }
    const table = event.target.closest?.("[data-roving]");
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -24, ArrowDown: 24 }[event.key];
    if (table && step) {
      event.preventDefault();
      const cells = [...table.querySelectorAll("tbody td")];
      let i = cells.indexOf(event.target.closest("td")) + step;
      while (cells[i] && !find("a", cells[i])) i += step;
      const link = cells[i] && find("a", cells[i]);
      if (link) {
        for (const each of table.querySelectorAll("a")) each.tabIndex = -1;
        link.tabIndex = 0;
        link.focus();
      }
    }
  });
  document.addEventListener("focusin", (event) => {
    if (event.target.matches?.("[data-tip]")) tipAt(event.target);
    else if (!event.target.closest?.(".chart")) hideTip();
  });

  // One stop for the tabulator, wherever in the table it was last.
  function rove() {
    for (const table of document.querySelectorAll("[data-roving]")) {
      const links = [...table.querySelectorAll("a")];
      if (links.some((each) => each === document.activeElement)) continue;
      links.forEach((each, i) => (each.tabIndex = i === links.length - 1 ? 0 : -1));
    }
  }

  function announce(words) {
    const place = find("#announce");
    if (place && words) place.textContent = words.replace(/\s+/g, " ").trim();
  }

  arrived();
})();
