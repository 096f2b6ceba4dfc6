"use strict";
// Draws the figures, in the colours that the reader prefers. Those in a closed box are drawn when it opens.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const templates = read("templates");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const template = () => templates[dark.matches ? "dark" : "light"];
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };

  const draw = async (place) => {
    if (place.dataset.drawn) return;
    place.dataset.drawn = "begun";
    const { data, layout } = read(place.id.replace("plot-", "data-"));
    const narrow = place.clientWidth < 500;
    const own = narrow ? { ...layout, dragmode: false, font: { ...layout.font, size: 11 } } : layout;
    await Plotly.newPlot(place, data, { ...own, template: template() }, { ...config, displayModeBar: narrow ? false : "hover" });
    place.dataset.drawn = "done";
  };

  const places = [...document.querySelectorAll(".drawing")];
  const isOpen = (place) => !place.closest("details:not([open])");
  for (const box of document.querySelectorAll("details")) {
    box.addEventListener("toggle", () => box.querySelectorAll(".drawing").forEach((place) => isOpen(place) && draw(place)));
  }
  dark.addEventListener("change", () => {
    for (const place of places) {
      if (place.dataset.drawn === "done") Plotly.relayout(place, { template: template() });
    }
  });
  (async () => {
    for (const place of places.filter(isOpen)) {
      await draw(place);
      // Lets the page answer between two figures.
      await new Promise((next) => setTimeout(next));
    }
    document.documentElement.dataset.drawn = "done";
  })();
})();
