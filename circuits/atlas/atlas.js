/* Orders and filters the units of a page, finds units on the front page, and turns pages with the arrow keys. */
(function () {
  "use strict";

  function words(count) { return count + (count === 1 ? " unit" : " units"); }

  document.querySelectorAll("form").forEach(function (form) {
    form.addEventListener("submit", function (event) { event.preventDefault(); });
  });

  document.querySelectorAll("[data-grid]").forEach(function (form) {
    var grid = document.getElementById(form.dataset.grid);
    var items = Array.from(grid.children);
    function apply() {
      var order = form.elements.order.value;
      var state = form.elements.state ? form.elements.state.value : "";
      var find = form.elements.find.value.trim().toLowerCase();
      var count = 0;
      items.forEach(function (item) {
        var kept = (!state || item.dataset.state === state) && (!find || item.dataset.find.toLowerCase().includes(find));
        item.hidden = !kept;
        count += kept;
      });
      items.slice().sort(function (a, b) {
        if (order === "channel") return a.dataset.channel - b.dataset.channel;
        return (Number(b.dataset[order]) || 0) - (Number(a.dataset[order]) || 0) || a.dataset.channel - b.dataset.channel;
      }).forEach(function (item) { grid.append(item); });
      form.querySelector("output").textContent = words(count);
    }
    form.addEventListener("input", apply);
    apply();
  });

  document.querySelectorAll("[data-search]").forEach(function (form) {
    var links = Array.from(document.querySelectorAll(".sheet a"));
    form.addEventListener("input", function () {
      var find = form.querySelector("input").value.trim().toLowerCase();
      var count = 0;
      links.forEach(function (link) {
        var kept = !find || link.dataset.find.toLowerCase().includes(find);
        link.parentElement.classList.toggle("missed", !kept);
        count += kept;
      });
      document.querySelectorAll(".layer-strip").forEach(function (strip) { strip.hidden = !strip.querySelector("li:not(.missed)"); });
      form.querySelector("output").textContent = find ? words(count) : "";
    });
    form.addEventListener("submit", function () {
      var first = links.find(function (link) { return !link.parentElement.classList.contains("missed"); });
      if (first && form.querySelector("input").value.trim()) window.location.href = first.href;
    });
  });

  document.addEventListener("keydown", function (event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("input, select, textarea, [role=application]")) return;
    var link = document.querySelector(event.key === "ArrowLeft" ? "a[rel=prev]" : event.key === "ArrowRight" ? "a[rel=next]" : "a[rel=none]");
    if (link) window.location.href = link.href;
  });
})();
