/* Draws the circuit that lies in a page's data block and answers clicks, keys and the slider. Text from data only ever becomes text. */
(function () {
  "use strict";
  var POINTS = 15;
  var GOLDEN = (Math.sqrt(5) - 1) / 2;
  var SIGNS = [1, -1, 0];
  var LISTED = 8;

  function escaped(text) {
    return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");
  }

  function element(name, className, text) {
    var made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function number(value) {
    return (value > 0 ? "+" : value < 0 ? "−" : "") + String(Number(Math.abs(value).toPrecision(3)));
  }

  function percent(share) {
    return (100 * share).toFixed(share < 0.0995 ? 1 : 0) + " %";
  }

  function start(root) {
    var data = JSON.parse(root.querySelector(".circuit-data").textContent);
    var stage = root.querySelector(".stage");
    var frame = root.querySelector(".stage-frame");
    var card = root.querySelector(".card");
    var welcome = card.innerHTML; // this page's own words, from the template
    var units = data.units;
    var edges = data.edges.map(function (row, index) {
      return { index: index, source: row[0], target: row[1], weight: row[2], strength: row[3], share: row[4], width: row[5], sign: Math.sign(row[2]) };
    });
    var strongest = edges.reduce(function (most, edge) { return Math.max(most, edge.strength); }, 0) || 1;
    var state = { unit: -1, edge: -1, cut: 0, signs: { "1": true, "-1": true, "0": true }, scale: 1 };

    function visible(edge) {
      return edge.strength >= state.cut * strongest && state.signs[edge.sign];
    }

    /* Everything upstream and downstream of the selected unit, along visible connections. */
    function reach(from, here, there) {
      var found = new Set([from]);
      var lit = new Set();
      var queue = [from];
      while (queue.length) {
        var unit = queue.pop();
        edges.forEach(function (edge) {
          if (edge[here] !== unit || !visible(edge)) return;
          lit.add(edge.index);
          if (!found.has(edge[there])) { found.add(edge[there]); queue.push(edge[there]); }
        });
      }
      return { units: found, edges: lit };
    }

    function selection() {
      if (state.edge >= 0) {
        var chosen = edges[state.edge];
        return { units: new Set([chosen.source, chosen.target]), edges: new Set([state.edge]) };
      }
      if (state.unit < 0) return null;
      var up = reach(state.unit, "target", "source");
      var down = reach(state.unit, "source", "target");
      return { units: new Set([...up.units, ...down.units]), edges: new Set([...up.edges, ...down.edges]), up: up.units.size - 1, down: down.units.size - 1 };
    }

    function curve(edge, xs, ys) {
      var from = units[edge.source], to = units[edge.target], half = data.side / 2 + 3;
      for (var step = 0; step < POINTS; step++) {
        var along = step / (POINTS - 1);
        xs.push(from.x + half + (to.x - from.x - 2 * half) * along);
        ys.push(from.y + (to.y - from.y) * along * along * (3 - 2 * along));
      }
      xs.push(null);
      ys.push(null);
    }

    function lines(members, colour, width, opacity) {
      var xs = [], ys = [];
      members.forEach(function (edge) { curve(edge, xs, ys); });
      return { type: "scatter", mode: "lines", x: xs, y: ys, hoverinfo: "skip", opacity: opacity, line: { color: colour, width: width } };
    }

    function edgeText(edge) {
      var verb = edge.sign > 0 ? " excites " : edge.sign < 0 ? " inhibits " : " reaches ";
      var share = edge.share === null ? "" : ", " + percent(edge.share) + " of what arrives";
      return escaped(units[edge.source].name) + verb + escaped(units[edge.target].name) + "<br>weight " + escaped(number(edge.weight)) + share;
    }

    function grip(edge) {
      var xs = [], ys = [];
      curve(edge, xs, ys);
      var at = Math.round((0.3 + 0.4 * ((edge.index * GOLDEN) % 1)) * (POINTS - 1));
      return [xs[at], ys[at]];
    }

    function traces(chosen, paint) {
      var seen = edges.filter(visible);
      var lit = chosen ? seen.filter(function (edge) { return chosen.edges.has(edge.index); }) : seen;
      var faded = chosen ? seen.filter(function (edge) { return !chosen.edges.has(edge.index); }) : [];
      var drawn = [lines(faded, paint.fade, 1, 0.7)];
      data.widths.forEach(function (width, bin) {
        SIGNS.forEach(function (sign) {
          var members = lit.filter(function (edge) { return edge.width === bin && edge.sign === sign; });
          var colour = sign > 0 ? paint.excites : sign < 0 ? paint.inhibits : paint.neither;
          drawn.push(lines(members, colour, width * Math.max(0.8, state.scale), 0.8));
        });
      });
      var points = lit.map(grip);
      drawn.push({
        type: "scatter", mode: "markers", hoverinfo: "text", hovertext: lit.map(edgeText), customdata: lit.map(function (edge) { return edge.index; }),
        x: points.map(function (point) { return point[0]; }), y: points.map(function (point) { return point[1]; }),
        marker: { size: 14, color: "rgba(0,0,0,0)" }, meta: { role: "edges" }
      });
      drawn.push(unitTrace(chosen, paint));
      return drawn;
    }

    function unitTrace(chosen, paint) {
      function bright(index) { return !chosen || chosen.units.has(index); }
      return {
        type: "scatter", mode: data.labelled ? "markers+text" : "markers",
        x: units.map(function (unit) { return unit.x; }), y: units.map(function (unit) { return unit.y; }),
        text: units.map(function (unit) { return escaped(unit.text); }), textposition: "bottom center",
        textfont: { size: Math.max(9, Math.min(12, 11 * state.scale)), color: units.map(function (_, index) { return bright(index) ? paint.soft : paint.fade; }) },
        hoverinfo: "text",
        hovertext: units.map(function (unit) { return "<b>" + escaped(unit.name) + "</b>" + (unit.label ? "<br>" + escaped(unit.label) : ""); }),
        customdata: units.map(function (_, index) { return index; }),
        marker: {
          symbol: "square", size: (data.side + 4) * state.scale, color: paint.sunken, opacity: 1,
          line: {
            color: units.map(function (unit, index) { return index === state.unit ? paint.ink : !bright(index) ? paint.line : unit.flagged ? paint.flag : paint.frame; }),
            width: units.map(function (unit, index) { return index === state.unit ? 3 : unit.flagged ? 2.5 : 1.5; })
          }
        },
        meta: { role: "units" }
      };
    }

    function images(chosen) {
      return units.map(function (unit, index) {
        return {
          source: unit.picture, x: unit.x, y: unit.y, xref: "x", yref: "y", xanchor: "center", yanchor: "middle", sizing: "stretch", layer: "above",
          sizex: data.side, sizey: data.side, opacity: !chosen || chosen.units.has(index) ? 1 : 0.16
        };
      }).filter(function (image) { return image.source; });
    }

    function layout(chosen, paint) {
      return {
        width: Math.round(data.width * state.scale), height: Math.round(data.height * state.scale), margin: { l: 0, r: 0, t: 0, b: 0 },
        xaxis: { visible: false, range: [0, data.width], fixedrange: true }, yaxis: { visible: false, range: [data.height, 0], fixedrange: true },
        hovermode: "closest", hoverlabel: { align: "left", bgcolor: paint.surface, bordercolor: paint.line, font: { color: paint.ink, size: 12.5 } },
        dragmode: false, showlegend: false, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: paint.sans, size: 12, color: paint.soft },
        annotations: data.layers.map(function (layer) {
          return { text: escaped(layer[0]), x: layer[1], y: 20, xref: "x", yref: "y", showarrow: false, font: { size: 13, color: paint.ink } };
        }),
        images: images(chosen)
      };
    }

    function colours() {
      var style = getComputedStyle(root);
      var paint = {};
      ["ink", "soft", "faint", "line", "fade", "surface", "sunken", "excites", "inhibits", "neither", "flag", "sans"].forEach(function (name) {
        paint[name] = style.getPropertyValue("--" + name).trim();
      });
      paint.frame = paint.fade;
      return paint;
    }

    function fit() {
      var room = frame.clientWidth - 2;
      state.scale = Math.max(0.62, Math.min(1.3, room / data.width));
    }

    function show() {
      var chosen = selection();
      var paint = colours();
      window.Plotly.react(stage, traces(chosen, paint), layout(chosen, paint), { displayModeBar: false, typesetMath: false, doubleClickDelay: 1, displaylogo: false, showSendToCloud: false, doubleClick: false, scrollZoom: false, staticPlot: false });
      root.querySelector(".reset").style.visibility = chosen && faded(chosen) ? "visible" : "hidden";
      root.classList.toggle("chosen", !!chosen);
      return chosen;
    }

    function faded(chosen) {
      return chosen.units.size < units.length || edges.some(function (edge) { return visible(edge) && !chosen.edges.has(edge.index); });
    }

    /* Bring a unit into the visible part of a drawing that is wider or higher than its frame. */
    function reveal(index) {
      var x = units[index].x * state.scale, y = units[index].y * state.scale, margin = data.side * state.scale + 30;
      if (x < frame.scrollLeft + margin || x > frame.scrollLeft + frame.clientWidth - margin) frame.scrollLeft = x - frame.clientWidth / 2;
      if (y < frame.scrollTop + margin || y > frame.scrollTop + frame.clientHeight - margin) frame.scrollTop = y - frame.clientHeight / 2;
    }

    function wire(edge, otherIndex) {
      var other = units[otherIndex];
      var row = element("li", "wire");
      if (other.picture) {
        var picture = element("img");
        picture.src = other.picture;
        picture.alt = "";
        row.append(picture);
      } else {
        row.append(element("span", "blank"));
      }
      var name = element("button", "unit-link", other.label ? other.name + " " + other.label : other.name);
      name.type = "button";
      name.addEventListener("click", function () { select(otherIndex); });
      var weight = element("button", "unit-link weight " + (edge.sign > 0 ? "excites" : "inhibits"), number(edge.weight));
      weight.type = "button";
      weight.title = edge.share === null ? "show this connection" : percent(edge.share) + " of what arrives at " + units[edge.target].name;
      weight.addEventListener("click", function () { selectEdge(edge.index); });
      row.append(name, weight);
      return row;
    }

    function wires(title, members, side) {
      if (!members.length) return;
      card.append(element("h3", "", title));
      var list = element("ul");
      members.sort(function (a, b) { return b.strength - a.strength; });
      members.slice(0, LISTED).forEach(function (edge) { list.append(wire(edge, edge[side])); });
      card.append(list);
      if (members.length > LISTED) card.append(element("p", "note", "and " + (members.length - LISTED) + " more in the table"));
    }

    function portrait(unit) {
      if (!unit.picture) return;
      var picture = element("img", "portrait");
      picture.src = unit.picture;
      picture.alt = "What " + unit.name + " responds to";
      card.append(picture);
    }

    function unitCard(index, chosen) {
      var unit = units[index];
      card.replaceChildren();
      portrait(unit);
      var name = element("h2");
      if (unit.link) {
        var link = element("a", "", unit.name);
        link.href = unit.link;
        name.append(link);
      } else {
        name.textContent = unit.name;
      }
      card.append(name);
      if (unit.label) card.append(element("p", "label", unit.label));
      if (unit.flagged) card.append(element("span", "badge flag", "seems to mean several things"));
      var facts = element("ul", "facts");
      (unit.facts || []).forEach(function (fact) { facts.append(element("li", "", fact)); });
      if (chosen && chosen.up !== undefined) facts.append(element("li", "", chosen.up + " units upstream, " + chosen.down + " downstream"));
      card.append(facts);
      wires("Inputs", edges.filter(function (edge) { return edge.target === index && visible(edge); }), "source");
      wires("Outputs", edges.filter(function (edge) { return edge.source === index && visible(edge); }), "target");
    }

    function edgeCard(edge) {
      card.replaceChildren();
      if (data.kernels[edge.index]) {
        var kernel = element("img", "kernel-large");
        kernel.src = data.kernels[edge.index];
        kernel.alt = "The weights of this connection: orange excites, blue inhibits";
        card.append(kernel);
      }
      card.append(element("h2", "", edge.sign < 0 ? "Inhibition" : "Excitation"));
      var facts = element("ul", "facts");
      facts.append(element("li", "", "weight " + number(edge.weight) + ", strength " + Number(edge.strength.toPrecision(3))));
      if (edge.share !== null) facts.append(element("li", "", percent(edge.share) + " of what arrives at the target"));
      card.append(facts);
      wires("From", [edge], "source");
      wires("To", [edge], "target");
    }

    function select(index) {
      state.unit = index;
      state.edge = -1;
      unitCard(index, show());
      reveal(index);
    }

    function selectEdge(index) {
      state.unit = -1;
      state.edge = index;
      show();
      edgeCard(edges[index]);
    }

    function reset() {
      state.unit = state.edge = -1;
      show();
      card.innerHTML = welcome;
    }

    function refresh() {
      var chosen = show();
      if (state.unit >= 0) unitCard(state.unit, chosen);
    }

    /* Left and right follow the strongest connection, up and down walk within the layer. */
    function neighbour(key) {
      if (state.unit < 0) return data.focus >= 0 ? data.focus : 0;
      var here = units[state.unit];
      if (key === "ArrowLeft" || key === "ArrowRight") {
        var near = key === "ArrowLeft" ? "target" : "source", far = key === "ArrowLeft" ? "source" : "target";
        var best = edges.filter(function (edge) { return edge[near] === state.unit && visible(edge); })
          .sort(function (a, b) { return b.strength - a.strength; })[0];
        return best ? best[far] : state.unit;
      }
      var column = units.map(function (_, index) { return index; }).filter(function (index) { return units[index].x === here.x; })
        .sort(function (a, b) { return units[a].y - units[b].y; });
      var at = column.indexOf(state.unit) + (key === "ArrowUp" ? -1 : 1);
      return column[Math.max(0, Math.min(column.length - 1, at))];
    }

    stage.addEventListener("keydown", function (event) {
      if (!/^Arrow(Left|Right|Up|Down)$/.test(event.key) || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      select(neighbour(event.key));
    });
    document.addEventListener("keydown", function (event) {
      if (event.key === "Escape" && (state.unit >= 0 || state.edge >= 0)) reset();
    });
    root.querySelector(".reset").addEventListener("click", reset);
    root.querySelector(".cut").addEventListener("input", function (event) {
      state.cut = event.target.value / 100;
      root.querySelector(".cut-value").textContent = state.cut ? "below " + event.target.value + " % of the strongest" : "none";
      refresh();
    });
    root.querySelectorAll(".sign").forEach(function (box) {
      box.addEventListener("change", function () { state.signs[box.value] = box.checked; refresh(); });
    });
    root.querySelectorAll("[data-unit]").forEach(function (button) {
      button.addEventListener("click", function () {
        select(Number(button.dataset.unit));
        stage.scrollIntoView({ block: "nearest" });
      });
    });
    root.querySelector(".several").hidden = !units.some(function (unit) { return unit.flagged; });

    fit();
    if (data.focus >= 0) select(data.focus); else show();

    var clicked = false;
    stage.on("plotly_click", function (event) {
      var point = event.points[event.points.length - 1];
      clicked = true;
      if (point.data.meta.role === "units") select(point.customdata); else selectEdge(point.customdata);
    });
    var down = null;
    stage.addEventListener("pointerdown", function (event) { down = [event.clientX, event.clientY]; clicked = false; }, true);
    window.addEventListener("pointerup", function (event) {
      var still = down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) < 6;
      down = null;
      if (still) window.setTimeout(function () { if (!clicked && (state.unit >= 0 || state.edge >= 0)) reset(); }, 60);
    }, true);
    stage.on("plotly_hover", function () { stage.classList.add("pointing"); });
    stage.on("plotly_unhover", function () { stage.classList.remove("pointing"); });

    var wait = 0;
    new ResizeObserver(function () {
      window.clearTimeout(wait);
      wait = window.setTimeout(function () { var before = state.scale; fit(); if (Math.abs(before - state.scale) > 0.005) refresh(); }, 80);
    }).observe(frame);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
    root.dataset.ready = "yes";
  }

  document.querySelectorAll(".circuit").forEach(start);
})();
