"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Plots: each is drawn when it comes near the window, and before the page is printed.
  const draw = (box) => {
    const plot = data.plots[box.dataset.plot];
    if (!plot || box.dataset.state || !box.checkVisibility()) return null;
    box.dataset.state = "drawing";
    const spec = { ...structuredClone(data.forms[plot.kind]), height: plot.height, datasets: { rows: plot.rows } };
    if (plot.series.length) {
      for (const layer of spec.layer) {
        for (const channel of [layer.encoding.color, layer.encoding.shape]) {
          if (channel?.legend?.values) channel.legend.values = plot.series;
          else if (channel?.scale) channel.scale.domain = plot.series;
        }
      }
    }
    const options = {
      mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false,
      logLevel: 1, // errors alone
      ast: true, // expressions are interpreted: nothing on this page is compiled from text
      tooltip: (handler, event, item, value) => { box.title = value ? Object.values(value).join(", ") : ""; },
    };
    return vegaEmbed(box, spec, options).then(
      () => { box.dataset.state = "drawn"; },
      (error) => { box.dataset.state = "failed"; console.error(box.dataset.plot, error); },
    );
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && draw(entry.target)) seen.unobserve(entry.target);
    }
  }, { rootMargin: "400px" });
  for (const box of all(".plot")) seen.observe(box);
  window.addEventListener("beforeprint", () => all(".plot").forEach(draw));

  // Raw samples: a table is made when it is asked for.
  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const cell = (text) => (/[",\n\r]/.test(text) || /^[=+@-]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const csv = (keys) => {
    const lines = ["sheet,candidate,round,time_us"];
    for (const key of keys) {
      const sheet = data.samples[key];
      sheet.names.forEach((name, column) => sheet.times_us[column].forEach((time, round) => {
        lines.push(`${key},${cell(name)},${round + 1},${time}`);
      }));
    }
    return `${lines.join("\n")}\n`;
  };
  const save = (name, text) => {
    const link = element("a", undefined, { download: name });
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const fill = (fold) => {
    const key = fold.dataset.samples;
    const sheet = data.samples[key];
    if (!sheet || fold.dataset.state) return;
    fold.dataset.state = "filled";
    const table = element("table", undefined, { class: "samples" });
    const head = table.createTHead().insertRow();
    head.append(element("th", "Round", { scope: "col", class: "figure" }));
    for (const name of sheet.names) head.append(element("th", `${name}, µs`, { scope: "col", class: "figure" }));
    const body = table.createTBody();
    const rounds = Math.max(...sheet.times_us.map((times) => times.length));
    for (let round = 0; round < rounds; round += 1) {
      const row = body.insertRow();
      row.append(element("td", String(round + 1), { class: "figure" }));
      for (const times of sheet.times_us) {
        row.append(element("td", round < times.length ? String(times[round]) : "–", { class: "figure" }));
      }
    }
    const scroll = element("div", undefined, { class: "scroll", tabindex: "0", role: "region" });
    scroll.setAttribute("aria-label", `Raw samples: ${sheet.title}`);
    scroll.append(table);
    const button = element("button", "Download as CSV", { type: "button" });
    button.addEventListener("click", () => save(`${key}.csv`, csv([key])));
    fold.append(button, scroll);
  };
  for (const fold of all("details[data-samples]")) fold.addEventListener("toggle", () => fold.open && fill(fold));
  for (const button of all("[data-save-all]")) {
    button.hidden = false;
    button.addEventListener("click", () => save("samples.csv", csv(Object.keys(data.samples))));
  }

  // A link to something that is folded unfolds it.
  const unfold = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const fate = document.getElementById("fate");
    if (target.closest("[hidden]") && fate) { // a contest that the filter hides
      fate.value = document.getElementById("filter").value = "";
      fate.dispatchEvent(new Event("change"));
    }
    for (let each = target; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
    target.scrollIntoView();
    target.querySelector("summary")?.focus({ preventScroll: true });
  };
  window.addEventListener("hashchange", unfold);
  // The same link again changes no hash.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#"]');
    if (link && link.getAttribute("href") === location.hash) unfold();
  });
  unfold();

  // The table of winners: filter and sort. What is hidden there is hidden among the contests too.
  const table = document.getElementById("winners");
  const tools = document.getElementById("tools");
  if (table && tools) {
    tools.hidden = false;
    const rows = [...table.tBodies[0].rows];
    const text = document.getElementById("filter");
    const fate = document.getElementById("fate");
    const order = document.getElementById("order");
    const count = document.getElementById("count");
    const words = rows.map((row) => row.textContent.toLowerCase());
    const filter = () => {
      const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, index) => {
        const fits = wanted.every((word) => words[index].includes(word)) && (!fate.value || (fate.value === "first" ? "first" in row.dataset : row.dataset.fate === fate.value));
        row.hidden = !fits;
        shown += fits;
        const contest = document.getElementById(row.dataset.contest);
        if (contest) contest.hidden = !fits;
      });
      count.textContent = `${shown} of ${rows.length}`;
    };
    const value = (row, column) => {
      const { value: figure } = row.cells[column].dataset;
      return figure === undefined ? row.cells[column].textContent.trim().toLowerCase() : figure === "" ? null : Number(figure);
    };
    const sort = (column, up) => {
      const sign = up ? 1 : -1;
      // What has no figure stands last, whichever way.
      const compare = (a, b) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : sign * (a < b ? -1 : a > b ? 1 : 0));
      table.tBodies[0].append(...[...rows].sort((one, other) => compare(value(one, column), value(other, column))));
      all("th", table).forEach((head, index) => {
        head.setAttribute("aria-sort", index !== column ? "none" : up ? "ascending" : "descending");
      });
      order.value = `${column} ${up ? "up" : "down"}`;
    };
    all("th", table).forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => sort(column, head.getAttribute("aria-sort") !== "ascending"));
    });
    order.addEventListener("change", () => {
      const [column, way] = order.value.split(" ");
      sort(Number(column), way === "up");
    });
    text.addEventListener("input", filter);
    fate.addEventListener("change", filter);
    filter();
  }
  for (const button of all("[data-fold]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      for (const contest of all("details.contest")) contest.open = button.dataset.fold === "open";
    });
  }
})();
