"use strict";
(() => {
  const data = JSON.parse(document.getElementById("details").textContent);
  const column = document.getElementById("column");
  if (!column) return;
  const panel = document.getElementById("panel");
  const detail = document.getElementById("detail");
  const narrow = matchMedia("(max-width: 60rem)");
  const rows = [...column.querySelectorAll("button.row")];
  const SVG = "http://www.w3.org/2000/svg";
  const STEPS = 8;
  let current = null;

  document.querySelectorAll(".needs-script").forEach((each) => { if (each !== panel) each.hidden = false; });

  const make = (tag, className, ...children) => {
    const found = document.createElement(tag);
    if (className) found.className = className;
    found.append(...children.filter((each) => each !== null && each !== undefined));
    return found;
  };

  // `words` of code as code
  const worded = (text) => text.split("`").map((each, place) => place % 2 ? make("code", "", each) : each);

  // The panel

  function show(number, asked) {
    const button = rows[number];
    if (!button) return;
    current?.removeAttribute("aria-current");
    current = button;
    button.setAttribute("aria-current", "true");
    const places = data.rows[number];
    const first = data.boundaries[places[places.length - 1]];
    const module = first.module;
    const all = data.modules[module];
    const decisive = places.map((each) => data.boundaries[each]).find((each) => each.state === "diff") ?? first;
    const maps = [...places, ...all.filter((each) => !places.includes(each))].filter((each) => "map" in data.boundaries[each]);
    detail.replaceChildren(
      heading(first, decisive),
      ...figures(all, places),
      ...maps.map((each) => map(data.maps[data.boundaries[each].map])),
      ...missing(decisive, maps),
      ...cause(decisive, all),
    );
    panel.hidden = narrow.matches && !asked;
    panel.scrollTop = 0;
    for (const each of detail.querySelectorAll(".meant")) {
      const box = each.closest("pre");
      box.scrollTop = each.offsetTop - box.offsetTop - box.clientHeight / 3;
    }
  }

  function heading(boundary, decisive) {
    const state = data.states[decisive.state];
    const said = decisive.state === "diff" && decisive.figures[4] ? data.worse : state.said;
    const told = make("p", `said ${decisive.state}`, make("span", `mark ${decisive.state}`, state.mark), " ", make("b", "", label(decisive)), `: ${said}`, decisive.note ? ` ${decisive.note}.` : "");
    told.setAttribute("aria-live", "polite");
    const title = make("h3", "", boundary.module);
    return make("header", "", title, make("p", "dim", "port: ", boundary.port || "no module of its own"), told);
  }

  function figures(all, places) {
    const times = all.some((place) => data.boundaries[place].figures[4]);
    const head = make("tr", "", ...["", "stage", "max", "mean", "own", "total", ...(times ? ["times"] : [])].map((each) => {
      const cell = make("th", "", each);
      cell.scope = "col";
      return cell;
    }));
    const body = all.map((place) => {
      const each = data.boundaries[place];
      const state = data.states[each.state];
      const name = make("th", "", make("i", `patch ${each.colour}`), make("span", `mark ${each.state}`, state.mark), " ", label(each), make("span", "sr", `, ${state.word}`));
      name.scope = "row";
      const cells = each.figures.slice(0, times ? 5 : 4).map((figure) => make("td", "", figure));
      return make("tr", `${places.includes(place) ? "chosen " : ""}${each.state}`, name, make("td", "stage", each.stage), ...cells);
    });
    const caption = make("p", "dim caption", `max, mean: absolute; own, total: relative${times ? "; times: the error in low precision, as a multiple of the reference’s" : ""}`);
    const table = make("table", "figures", make("thead", "", head), make("tbody", "", ...body));
    const box = make("div", "scroll", table);
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "Figures");
    return [caption, box];
  }

  function label(boundary) {
    if (boundary.name.startsWith(`${boundary.stage}: `)) return boundary.name.slice(boundary.stage.length + 2);
    const tap = boundary.name.startsWith(boundary.module) ? boundary.name.slice(boundary.module.length) : "";
    if (boundary.kind === "tap") return tap.replace(/^(\[.*?\])?:/, "$1") || boundary.name;
    const dtype = boundary.name.match(/^(\w+): /);
    const call = boundary.name.match(/\[[^\]]*\]/);
    return boundary.kind + (call ? ` ${call[0]}` : "") + (dtype ? `, ${dtype[1]}` : "");
  }

  function missing(boundary, maps) {
    if (maps.length || boundary.state !== "diff") return [];
    const why = data.dropped
      ? "No map: on a real checkpoint, values are dropped as soon as they are compared. A check with --small-config keeps them."
      : "No map of this place: only the first that differ have one, and only where tokens can be told.";
    return [make("p", "dim missing", why)];
  }

  function cause(boundary, all) {
    const known = boundary.finding ?? all.map((each) => data.boundaries[each].finding).find((each) => each !== undefined);
    if (known === undefined) return [];
    const finding = data.findings[known];
    const link = make("a", "", `Finding ${finding.number}`);
    link.href = `#finding${finding.number}`;
    const found = make("section", "cause", make("h4", "", link, `: ${finding.title}`));
    if (finding.why) found.append(make("p", "why", "The port ", ...worded(finding.why), "."));
    found.append(make("p", "dim", "cause ", make("code", "", finding.cause)));
    if (finding.evidence.length) found.append(make("ul", "evidence", ...finding.evidence.map((each) => make("li", "", ...worded(each)))));
    if (finding.port || finding.reference) {
      found.append(make("div", "sides", code("port", finding.port, "ours"), code("reference", finding.reference, "theirs")));
    }
    return [found];
  }

  function code(title, found, side) {
    const caption = make("figcaption", "", make("b", "", title), " ", make("span", "path", found ? found.at : ""));
    if (!found) return make("figure", `code ${side}`, caption, make("p", "dim none", "No line of its own."));
    const lines = found.lines.map(([number, text, meant]) => make("span", meant ? "line meant" : "line",
      make("span", "number", meant ? make("span", "sr", "this line: ") : null, String(number)), make("span", "", `${text}\n`)));
    const listing = make("pre", "", ...lines);
    listing.tabIndex = 0;
    listing.setAttribute("aria-label", `${title}, ${found.at}`);
    return make("figure", `code ${side}`, caption, listing);
  }

  // A heat map

  function map(found) {
    const known = found.values.flat().filter((each) => each !== null && each > found.noise);
    const most = Math.max(...known, found.noise), least = Math.min(...known, most / 10);
    const step = (value) => Math.min(STEPS - 1, Math.floor(STEPS * Math.log(value / least) / Math.log(most / least)));
    const paint = (value) => value === null ? "odd" : value <= found.noise ? "agrees" : `heat${step(value)}`;
    const height = found.rows.length, width = found.across.length;
    const wide = Math.max(1, Math.min(6, Math.round(32 / width)));  // cells of a narrow map are wider than high
    let worst = [0, 0], worstSize = -1;
    found.values.forEach((row, i) => row.forEach((value, j) => {
      const size = value === null ? Infinity : value;
      if (size > worstSize) [worst, worstSize] = [[i, j], size];
    }));
    const where = ([i, j]) => `tokens ${found.rows[i]}, ${found.columns} ${found.across[j]}: ${told(found.values[i][j])}`;
    const picture = document.createElementNS(SVG, "svg");
    picture.setAttribute("viewBox", `0 0 ${width * wide} ${height}`);
    picture.setAttribute("class", "map");
    picture.setAttribute("preserveAspectRatio", "none");
    picture.style.aspectRatio = `${width * wide} / ${height}`;
    picture.setAttribute("role", "img");
    picture.setAttribute("tabindex", "0");
    picture.setAttribute("aria-label", `Heat map of ${found.name}, ${height} by ${width} cells. Largest: ${where(worst)}. Arrow keys read cells.`);
    const box = (i, j, className) => {
      const cell = document.createElementNS(SVG, "rect");
      const at = { x: j * wide, y: i, width: wide, height: 1, class: className };
      for (const [name, value] of Object.entries(at)) cell.setAttribute(name, value);
      return cell;
    };
    found.values.forEach((row, i) => row.forEach((value, j) => {
      const cell = box(i, j, `cell ${paint(value)}${i === worst[0] && j === worst[1] ? " worst" : ""}`);
      cell.dataset.at = `${i} ${j}`;
      picture.append(cell);
    }));
    const cursor = box(worst[0], worst[1], "cursor");
    picture.append(cursor);
    const readout = make("output", "", `largest at ${where(worst)}`);
    readout.setAttribute("aria-live", "polite");
    let at = worst;
    const read = (place) => {
      at = place;
      cursor.setAttribute("y", place[0]);
      cursor.setAttribute("x", place[1] * wide);
      readout.textContent = where(place);
    };
    picture.addEventListener("pointermove", (event) => { if (event.target.dataset.at) read(event.target.dataset.at.split(" ").map(Number)); });
    picture.addEventListener("pointerleave", () => { read(worst); readout.textContent = `largest at ${where(worst)}`; });
    picture.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
      if (!down && !right) return;
      event.preventDefault();
      read([Math.max(0, Math.min(height - 1, at[0] + down)), Math.max(0, Math.min(width - 1, at[1] + right))]);
    });
    const across = make("p", "axis across", make("span", "", found.across[0]), make("span", "", `${found.columns}s`), make("span", "", found.across[width - 1]));
    const down = make("p", "axis down", make("span", "", found.rows[0]), make("span", "", "tokens"), make("span", "", found.rows[height - 1]));
    const legend = make("p", "legend", make("span", "scale", make("span", "ends", short(least)), ...Array.from({ length: STEPS }, (_, each) => make("i", `heat${each}`)), make("span", "ends", short(most))),
      make("span", "", make("i", "agrees"), " agrees"),
      found.values.flat().includes(null) ? make("span", "", make("i", "odd"), " not finite, or none in the reference") : null);
    return make("figure", "heat", make("figcaption", "", make("b", "", "Where it differs"), " ", make("span", "path", found.name)),
      make("div", "plot", down, picture, across), readout, legend);
  }

  const short = (value) => value === 0 ? "0" : value.toExponential(1).replace(/e-(\d)$/, "e-0$1").replace(/e\+(\d)$/, "e+0$1");
  const told = (value) => value === null ? "not finite, or none in the reference" : short(value);

  // Moving about

  const folded = (each) => each.matches("button") && each.closest("details")?.open === false;
  const shown = () => [...column.querySelectorAll("summary, button.row")].filter((each) => !folded(each) && each.offsetParent !== null);

  function focus(target) {
    column.querySelectorAll('[tabindex="0"]').forEach((each) => { each.tabIndex = -1; });
    target.tabIndex = 0;
    target.focus();
  }

  function reveal(number) {
    const button = rows[number];
    if (!button) return;
    only(false);
    const around = button.closest("details");
    if (around) around.open = true;
    button.scrollIntoView({ block: "center" });
    focus(button);
    show(number, true);
  }

  const differing = document.getElementById("differing");
  function only(wanted) {
    differing.setAttribute("aria-pressed", String(wanted));
    column.classList.toggle("only", wanted);
  }
  differing.addEventListener("click", () => {
    only(differing.getAttribute("aria-pressed") !== "true");
    if (column.classList.contains("only")) column.querySelectorAll("details.diff").forEach((each) => { each.open = true; });
  });
  const all = (open) => column.querySelectorAll("details").forEach((each) => { each.open = open; });
  document.getElementById("unfold").addEventListener("click", () => all(true));
  document.getElementById("fold").addEventListener("click", () => all(false));

  column.addEventListener("click", (event) => {
    const button = event.target.closest("button.row");
    if (button) { focus(button); show(Number(button.dataset.row), true); }
  });
  column.addEventListener("focusin", (event) => {
    const target = event.target.closest("summary, button.row");
    if (!target || target.tabIndex === 0) return;
    column.querySelectorAll('[tabindex="0"]').forEach((each) => { each.tabIndex = -1; });
    target.tabIndex = 0;
  });
  column.addEventListener("keydown", (event) => {
    const target = event.target.closest("summary, button.row");
    if (!target || event.altKey || event.ctrlKey || event.metaKey) return;
    const block = target.closest("details");
    const list = shown(), place = list.indexOf(target);
    let next = null;
    if (event.key === "ArrowDown") next = list[place + 1];
    else if (event.key === "ArrowUp") next = list[place - 1];
    else if (event.key === "Home") next = list[0];
    else if (event.key === "End") next = list[list.length - 1];
    else if (event.key === "ArrowRight" && target.matches("summary")) { if (block.open) next = list[place + 1]; else block.open = true; }
    else if (event.key === "ArrowLeft" && block) { if (target.matches("summary")) block.open = false; else next = block.querySelector("summary"); }
    else return;
    event.preventDefault();
    if (next) focus(next);
  });

  document.querySelectorAll("a[data-row]").forEach((each) => each.addEventListener("click", (event) => {
    event.preventDefault();
    reveal(Number(each.dataset.row));
  }));
  const close = () => { if (narrow.matches && !panel.hidden) { panel.hidden = true; current?.focus(); } };
  document.getElementById("close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  narrow.addEventListener("change", () => { panel.hidden = narrow.matches; });

  column.querySelectorAll("summary, button.row").forEach((each) => { each.tabIndex = -1; });
  const begin = column.dataset.first === "" ? null : Number(column.dataset.first);
  if (begin !== null) {
    const around = rows[begin].closest("details");
    if (around) around.open = true;
    rows[begin].tabIndex = 0;
    show(begin, false);
  } else {
    shown()[0]?.setAttribute("tabindex", "0");
  }
})();
