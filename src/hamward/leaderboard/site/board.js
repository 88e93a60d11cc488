(() => {
  "use strict";
  const table = document.getElementById("board");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const form = document.getElementById("filters");
  const search = document.getElementById("search");
  const selects = [...form.querySelectorAll("select")];
  const buttons = [...table.querySelectorAll("button.sort")];
  const panels = [...document.querySelectorAll(".panel")];
  const points = [...document.querySelectorAll(".panel a")];
  const told = document.getElementById("told");
  const none = document.getElementById("none");
  let order = "";

  const fits = (row) => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    return words.every((word) => row.dataset.text.includes(word)) && selects.every((select) => {
      const wanted = select.value;
      const own = row.dataset[select.dataset.key];
      return !wanted || (wanted[0] === "!" ? own !== wanted.slice(1) : own === wanted);
    });
  };

  const show = () => {
    const seen = rows.filter((row) => { row.hidden = !fits(row); return !row.hidden; });
    const groups = new Set(seen.map((row) => row.dataset.group));
    const pages = new Set(seen.map((row) => row.dataset.page));
    for (const panel of panels) panel.hidden = !groups.has(panel.dataset.group);
    for (const point of points) point.classList.toggle("dim", !pages.has(point.getAttribute("href")));
    none.hidden = seen.length > 0;
    const count = seen.length === rows.length ? `${rows.length}` : `${seen.length} of ${rows.length}`;
    told.textContent = `${count} ${rows.length === 1 ? "entry" : "entries"}${order}.`;
  };

  const sort = (button) => {
    const { key, first, kind } = button.dataset;
    const head = button.closest("th");
    const before = head.getAttribute("aria-sort");
    const other = { ascending: "descending", descending: "ascending" };
    const direction = before === "none" ? first : other[before];
    for (const each of buttons) each.closest("th").setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      const [x, y] = [a.dataset[key], b.dataset[key]];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (kind === "text" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    };
    rows.sort(compare);
    body.append(...rows);
    order = `, sorted by ${button.textContent.trim()}, ${direction}`;
    show();
  };

  for (const button of buttons) button.addEventListener("click", () => sort(button));
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  document.getElementById("clear").addEventListener("click", () => { form.reset(); search.focus(); });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && event.target === search) {
      search.value = "";
      show();
    }
  });
  form.hidden = false;
  show();
})();
