// The explorer: the rule in the page, and pictures of what it does. D3 draws; the controls are plain HTML, so that they
// work by keyboard. Data: `window.explorerData`, a list of runs as flgc_lib/figures/explorer.py writes them.

// --- The method: the same functions as flgc_lib/grouping.py ----------------------------------------------------------

/** Group with the largest score of each row of S; a tie goes to the lowest group. */
function ownGroups(S) {
  return S.map((row) => row.reduce((best, value, g) => (value > row[best] ? g : best), 0));
}

/** Row softmax of S. */
function softmaxRows(S) {
  return S.map((row) => {
    const top = Math.max(...row);
    const raised = row.map((value) => Math.exp(value - top));
    const sum = raised.reduce((a, b) => a + b, 0);
    return raised.map((value) => value / sum);
  });
}

/** τ(g): mean of the k best scores among the members of g; +∞ for an empty group. */
function thresholds(scores, own, groups, k) {
  return d3.range(groups).map((g) => {
    const best = scores.filter((_, c) => own[c] === g).map((row) => row[g]).sort(d3.descending).slice(0, k);
    return best.length ? d3.mean(best) : Infinity;
  });
}

/** The paper's rule: a channel outside g whose score beats τ(g), strictly, is copied into g. */
function duplicates(scores, own, tau) {
  return scores.flatMap((row, c) =>
    row.flatMap((value, g) => (g !== own[c] && value > tau[g] ? [{ channel: c, own: own[c], into: g, score: value }] : [])),
  );
}

/** Multiply-accumulates: Σ over groups of channels · filters · (kernel area · positions). */
function macs(channels, filters, each) {
  return d3.sum(channels, (count, g) => count * filters[g]) * each;
}

/** Everything that the pictures show of one layer at one moment. */
function analyse(layer, moment, k, score) {
  const S = layer.S[moment];
  const groups = S[0].length;
  const own = ownGroups(S);
  const scores = score === "softmax" ? softmaxRows(S) : S;
  const tau = thresholds(scores, own, groups, k);
  const copies = duplicates(scores, own, tau);
  const members = d3.range(groups).map((g) => own.filter((o) => o === g).length);
  const imported = d3.range(groups).map((g) => copies.filter((copy) => copy.into === g).length);
  const filters = d3.range(groups).map((g) => layer.filterGroup[moment].filter((o) => o === g).length);
  for (const copy of copies) copy.macs = filters[copy.into] * layer.macsEach;
  const withCopies = members.map((count, g) => count + imported[g]);
  return {
    S, groups, own, scores, tau, copies, members, imported, filters,
    macsDense: own.length * layer.filterGroup[moment].length * layer.macsEach,
    macsPlain: macs(members, filters, layer.macsEach),
    macsCopies: macs(withCopies, filters, layer.macsEach),
  };
}

// --- The pictures ----------------------------------------------------------------------------------------------------

const WIDTH = 360;
// Of seaborn's palette for the colour-blind those that differ from white in grey too.
const COLOURS = ["#0173B2", "#DE8F05", "#029E73", "#D55E00", "#CC78BC", "#CA9161", "#949494", "#56B4E9"];
const colour = (g) => COLOURS[g % COLOURS.length];
/** Of words on that colour. */
const ink = (g) => (d3.lab(colour(g)).l < 55 ? "white" : "black");

function canvasOf(id, height, title) {
  const svg = d3.select(`#${id}`).html("").append("svg");
  svg.attr("viewBox", `0 0 ${WIDTH} ${height}`).attr("role", "img").attr("aria-label", title);
  return svg;
}

/** Order of the channels: as numbered, or by group and, within a group, the best first. */
function rowsOf(state, sorted) {
  const rows = d3.range(state.own.length);
  if (!sorted) return rows;
  return rows.sort((a, b) => state.own[a] - state.own[b] || state.scores[b][state.own[b]] - state.scores[a][state.own[a]]);
}

function drawScores(state, sorted) {
  const rows = rowsOf(state, sorted);
  const height = Math.max(3, Math.min(22, 420 / rows.length));
  const width = (WIDTH - 40) / state.groups;
  const svg = canvasOf("scores", rows.length * height + 44, "Scores of each channel for each group");
  // Brighter is larger in grey too. From lilac on, so that a black frame is seen around the darkest cell.
  const shade = d3.scaleSequential(d3.extent(state.scores.flat()), (t) => d3.interpolateCividis(0.35 + 0.65 * t));
  const copied = new Set(state.copies.map((copy) => `${copy.channel},${copy.into}`));
  rows.forEach((c, y) => {
    state.scores[c].forEach((value, g) => {
      const own = state.own[c] === g;
      const copy = copied.has(`${c},${g}`);
      const cell = svg.append("rect");
      cell.attr("x", 34 + g * width + 0.5).attr("y", y * height + 0.5).attr("width", width - 1).attr("height", Math.max(1, height - 1));
      cell.attr("fill", shade(value)).attr("stroke", own || copy ? "black" : "none");
      cell.attr("stroke-width", copy ? 1.8 : height < 9 ? 0.5 : 1).attr("stroke-dasharray", copy ? "3 2" : null);
      cell.append("title").text(`channel ${c}, group ${g}: ${value.toFixed(3)}${own ? ", own group" : copy ? ", copied" : ""}`);
      if (height >= 14 && width >= 26) {
        svg.append("text").attr("x", 34 + (g + 0.5) * width).attr("y", (y + 0.5) * height + 3.5).attr("class", "cell")
          .attr("fill", "black").text(value.toFixed(2));
      }
    });
    if (height >= 9 || y % Math.ceil(12 / height) === 0) {
      svg.append("text").attr("x", 30).attr("y", (y + 0.5) * height + 3.5).attr("class", "tick end").text(c);
    }
  });
  const bottom = rows.length * height;
  state.tau.forEach((value, g) => {
    if (width < 15 && g % 2) return;
    svg.append("text").attr("x", 34 + (g + 0.5) * width).attr("y", bottom + 13).attr("class", "tick").text(g);
    if (width >= 26) {
      const text = Number.isFinite(value) ? `τ ${value.toFixed(2)}` : "τ ∞";
      svg.append("text").attr("x", 34 + (g + 0.5) * width).attr("y", bottom + 26).attr("class", "tick").text(text);
    }
  });
  svg.append("text").attr("x", WIDTH / 2).attr("y", bottom + 40).attr("class", "tick").text("group g");
}

/** A column of groups for each moment, and ribbons from one to the next; those that stay are pale. */
function drawFlow(layer, moments, chosen) {
  const height = 300;
  const svg = canvasOf("flow", height, "Channels flowing into groups");
  const columns = layer.S.map(ownGroups);
  const groups = layer.S[0][0].length;
  const channels = columns[0].length;
  const gap = 4;
  const unit = (height - 24 - gap * (groups - 1)) / channels;
  const half = 15;
  const x = d3.scalePoint(d3.range(columns.length), [44, WIDTH - 44]);
  const sizes = columns.map((own) => d3.range(groups).map((g) => own.filter((o) => o === g).length));
  const tops = sizes.map((counts) => {
    let y = 20;
    return counts.map((count) => {
      const top = y;
      y += count * unit + gap;
      return top;
    });
  });
  for (let m = 0; m + 1 < columns.length; m += 1) {
    const [from, to, middle] = [x(m) + half, x(m + 1) - half, (x(m) + x(m + 1)) / 2];
    const [left, right] = [[...tops[m]], [...tops[m + 1]]]; // where the next ribbon starts
    for (const g of d3.range(groups)) {
      for (const h of d3.range(groups)) {
        const count = d3.range(channels).filter((c) => columns[m][c] === g && columns[m + 1][c] === h).length;
        if (!count) continue;
        const size = count * unit;
        const [a, b] = [left[g], right[h]];
        left[g] += size;
        right[h] += size;
        const path = `M${from},${a} C${middle},${a} ${middle},${b} ${to},${b} L${to},${b + size} C${middle},${b + size} ${middle},${a + size} ${from},${a + size} Z`;
        svg.append("path").attr("d", path).attr("fill", colour(g)).attr("opacity", g === h ? 0.25 : 0.8)
          .attr("stroke", g === h ? "none" : "currentColor").attr("stroke-width", 0.5)
          .append("title").text(`${count} channels from group ${g} to group ${h}, ${moments[m]} to ${moments[m + 1]}`);
      }
    }
  }
  columns.forEach((own, m) => {
    for (const g of d3.range(groups)) {
      const size = Math.max(0.5, sizes[m][g] * unit);
      svg.append("rect").attr("x", x(m) - half).attr("y", tops[m][g]).attr("width", 2 * half).attr("height", size).attr("fill", colour(g))
        .append("title").text(`group ${g}, ${moments[m]}: ${sizes[m][g]} channels`);
      if (size >= 10) svg.append("text").attr("x", x(m)).attr("y", tops[m][g] + size / 2 + 3.5).attr("class", "cell").attr("fill", ink(g)).text(g);
    }
    svg.append("text").attr("x", x(m)).attr("y", 12).attr("class", m === chosen ? "tick chosen" : "tick").text(moments[m]);
  });
  const words = d3.pairs(columns, (before, after) => before.filter((o, c) => o !== after[c]).length)
    .map((moved, m) => `${moments[m]} to ${moments[m + 1]}: ${moved}`);
  d3.select("#flow-words").text(words.length ? `Of ${channels} channels these change their group. ${words.join("; ")}.` : "One moment: nothing flows.");
}

/** Groups on a line; an arc from a channel's own group to the one it is copied into, wide for many. */
function drawCopies(state) {
  const svg = canvasOf("copies", 210, "Copies from group to group");
  const x = d3.scalePoint(d3.range(state.groups), [24, WIDTH - 24]);
  const flows = d3.rollups(state.copies, (all) => all.length, (copy) => copy.own, (copy) => copy.into);
  for (const [own, targets] of flows) {
    for (const [into, count] of targets) {
      const [a, b] = [x(own), x(into)];
      const radius = Math.abs(a - b) / 2;
      const flat = Math.min(1, 85 / radius);
      svg.append("path").attr("d", `M${a},105 A${radius},${radius * flat} 0 0 1 ${b},105`)
        .attr("fill", "none").attr("stroke", colour(own)).attr("stroke-width", Math.min(12, 1 + count)).attr("opacity", 0.75)
        .append("title").text(`${count} from group ${own} into group ${into}`);
    }
  }
  for (const g of d3.range(state.groups)) {
    svg.append("circle").attr("cx", x(g)).attr("cy", 105).attr("r", state.groups > 16 ? 5 : 9).attr("fill", colour(g)).attr("stroke", "currentColor");
    svg.append("text").attr("x", x(g)).attr("y", 108.5).attr("class", "cell").attr("fill", ink(g)).text(g);
  }
  svg.append("text").attr("x", WIDTH / 2).attr("y", 205).attr("class", "tick").text("arcs to the right above, to the left below; width: how many");
}

function drawMask(layer, moment, state) {
  const channels = rowsOf(state, true);
  const filterGroup = layer.filterGroup[moment];
  const filters = d3.range(filterGroup.length).sort((a, b) => filterGroup[a] - filterGroup[b] || a - b);
  const copied = new Set(state.copies.map((copy) => `${copy.channel},${copy.into}`));
  const canvas = d3.select("#mask").html("").append("canvas").attr("role", "img").attr("aria-label", `Mask M: ${channels.length} channels, ${filters.length} filters, ${copied.size} copies`).node();
  const cell = Math.max(1, Math.min(16, Math.floor(720 / Math.max(channels.length, filters.length))));
  canvas.width = channels.length * cell;
  canvas.height = filters.length * cell;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#ffffff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  filters.forEach((n, y) => {
    const g = filterGroup[n];
    channels.forEach((c, x) => {
      const copy = copied.has(`${c},${g}`);
      if (state.own[c] !== g && !copy) return;
      pen.fillStyle = copy ? "#000000" : colour(g);
      pen.fillRect(x * cell, y * cell, cell, cell);
    });
  });
}

function drawSizes(state) {
  const svg = canvasOf("sizes", 200, "Sizes of the groups");
  const x = d3.scaleBand(d3.range(state.groups), [34, WIDTH]).padding(0.15);
  const most = d3.max(d3.range(state.groups), (g) => Math.max(state.members[g] + state.imported[g], state.filters[g]));
  const y = d3.scaleLinear([0, most || 1], [170, 8]);
  for (const g of d3.range(state.groups)) {
    const half = x.bandwidth() / 2;
    const bar = (from, to, left, fill, dash, words) =>
      svg.append("rect").attr("x", left).attr("y", y(to)).attr("width", Math.max(0.5, half - 0.5)).attr("height", y(from) - y(to))
        .attr("fill", fill).attr("stroke", "currentColor").attr("stroke-width", 0.7).attr("stroke-dasharray", dash).append("title").text(words);
    bar(0, state.members[g], x(g), colour(g), null, `group ${g}: ${state.members[g]} channels`);
    bar(state.members[g], state.members[g] + state.imported[g], x(g), "transparent", "2 2", `group ${g}: ${state.imported[g]} copies`);
    bar(0, state.filters[g], x(g) + half, "#bbbbbb", null, `group ${g}: ${state.filters[g]} filters`);
    if (state.groups <= 16 || g % 2 === 0) svg.append("text").attr("x", x(g) + half).attr("y", 184).attr("class", "tick").text(g);
  }
  for (const tick of y.ticks(4)) svg.append("text").attr("x", 30).attr("y", y(tick) + 3.5).attr("class", "tick end").text(tick);
  svg.append("text").attr("x", WIDTH / 2).attr("y", 197).attr("class", "tick").text("group g: channels, copies on top (dashed); filters (grey)");
}

function writeNumbers(state) {
  const mega = (value) => (value >= 1e6 ? `${(value / 1e6).toFixed(3)} M` : value.toLocaleString("en"));
  const extra = state.macsPlain ? (100 * (state.macsCopies - state.macsPlain)) / state.macsPlain : 0;
  const rows = [
    ["copies", state.copies.length],
    ["of the channels", `${((100 * state.copies.length) / state.own.length).toFixed(1)} %`],
    ["MACs dense", mega(state.macsDense)],
    ["MACs without copies", mega(state.macsPlain)],
    ["MACs with copies", `${mega(state.macsCopies)} (+${extra.toFixed(1)} %)`],
    ["empty groups", state.members.filter((count) => count === 0).length],
  ];
  const table = d3.select("#numbers").html("").append("table");
  for (const [name, value] of rows) {
    const row = table.append("tr");
    row.append("th").attr("scope", "row").text(name);
    row.append("td").attr("id", `number-${name.replaceAll(" ", "-")}`).text(value);
  }
  const list = state.copies.slice(0, 40).map((copy) =>
    `channel ${copy.channel}: ${copy.score.toFixed(3)} > τ(${copy.into}) = ${state.tau[copy.into].toFixed(3)}, from ${copy.own} into ${copy.into}; costs ${mega(copy.macs)} MACs`);
  if (state.copies.length > 40) list.push(`… and ${state.copies.length - 40} more`);
  d3.select("#list").html("").selectAll("li").data(list).join("li").text((text) => text);
}

// --- The controls ----------------------------------------------------------------------------------------------------

function startExplorer(runs) {
  const choose = (id) => d3.select(`#${id}`);
  const options = (id, names) => {
    const before = choose(id).property("value");
    choose(id).selectAll("option").data(names).join("option").attr("value", (_, i) => i).text((name) => name);
    choose(id).property("value", names[before] === undefined ? 0 : before || 0);
  };
  const current = () => {
    const run = runs[+choose("run").property("value")];
    const layer = run.layers[+choose("layer").property("value")];
    const moment = Math.min(+choose("moment").property("value"), layer.S.length - 1);
    return { run, layer, moment };
  };
  const draw = () => {
    const { run, layer, moment } = current();
    const k = +choose("k").property("value");
    choose("k-value").text(k);
    const state = analyse(layer, moment, k, choose("score").property("value"));
    window.explorerState = state;
    drawScores(state, choose("sorted").property("checked"));
    drawFlow(layer, run.moments, moment);
    drawCopies(state);
    drawMask(layer, moment, state);
    drawSizes(state);
    writeNumbers(state);
    choose("about").text(run.about);
  };
  const pickLayer = () => {
    options("moment", current().run.moments);
    choose("moment").property("value", current().layer.S.length - 1);
    draw();
  };
  const pickRun = () => {
    options("layer", current().run.layers.map((layer) => `${layer.name} (C = ${layer.S[0].length}, G = ${layer.S[0][0].length})`));
    pickLayer();
  };
  options("run", runs.map((run) => run.name));
  choose("run").on("change", pickRun);
  choose("layer").on("change", pickLayer);
  for (const id of ["moment", "score", "sorted"]) choose(id).on("change", draw);
  choose("k").on("input", draw);
  pickRun();
}

startExplorer(window.explorerData);
