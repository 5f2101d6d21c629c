// The symbolic analysis of LDL': order, elimination tree, pattern of L, supernodes and which of them update which.
#include <algorithm>
#include <numeric>
#include <utility>

#include "cpu/ldl_plan.h"

namespace optl {

namespace {

using List = std::vector<int32_t>;

/// Sparse lower triangle by columns, diagonal left out.
std::vector<List> lower_columns(const List& position, int32_t entries, const int32_t* rows, const int32_t* cols) {
  std::vector<List> columns(position.size());
  for (int32_t e = 0; e < entries; ++e) {
    const auto [col, row] = std::minmax({position[rows[e]], position[cols[e]]});
    if (row != col) columns[col].push_back(row);
  }
  return columns;
}

/// parent[j], the first row below the diagonal of column j of L, or -1 (Liu, 1990).
List elimination_tree(int32_t n, const std::vector<List>& columns) {
  List parent(n, -1), ancestor(n, -1);
  std::vector<List> by_row(n);
  for (int32_t j = 0; j < n; ++j) {
    for (const int32_t i : columns[j]) by_row[i].push_back(j);
  }
  for (int32_t i = 0; i < n; ++i) {
    for (int32_t j : by_row[i]) {
      while (j >= 0 && j != i) {
        const int32_t next = std::exchange(ancestor[j], i);
        if (next < 0) parent[j] = i;
        j = next;
      }
    }
  }
  return parent;
}

/// The vertices of a forest, children before parents and subtrees together.
List postorder(const List& parent) {
  const int32_t n = static_cast<int32_t>(parent.size());
  std::vector<List> children(n);
  List found, open;
  for (int32_t j = n - 1; j >= 0; --j) {
    if (parent[j] < 0) {
      open.push_back(j);
    } else {
      children[parent[j]].push_back(j);
    }
  }
  while (!open.empty()) {
    const int32_t j = open.back();
    if (children[j].empty()) {
      found.push_back(j), open.pop_back();
    } else {
      open.push_back(children[j].back()), children[j].pop_back();
    }
  }
  return found;
}

/// Columns from `first` that are stored as one panel, over the rows `below` them.
struct Supernode {
  int32_t first, width;
  int64_t zeros;  // stored, though L has none there
  List below;

  int64_t entries() const { return width * (width + 1) / 2 + width * static_cast<int64_t>(below.size()); }
};

/// Zeros that are worth storing for the sake of a wider panel, as a share of its entries.
double zeros_allowed(int64_t width) { return width <= 4 ? 0.4 : width <= 16 ? 0.15 : 0.05; }

/// Columns in post-order: the pattern of each is that of A and of its children; like columns are joined, and a last
/// child with its parent where that stores few zeros.
std::vector<Supernode> find_supernodes(const std::vector<List>& columns, const List& parent) {
  const int32_t n = static_cast<int32_t>(columns.size());
  std::vector<List> pattern(n), children(n);
  std::vector<Supernode> found;
  List mark(n, -1);
  for (int32_t j = 0; j < n; ++j) {
    if (parent[j] >= 0) children[parent[j]].push_back(j);
    mark[j] = j;
    const auto add = [&](const List& rows) {
      for (const int32_t i : rows) {
        if (mark[i] != j) mark[i] = j, pattern[j].push_back(i);
      }
    };
    add(columns[j]);
    for (const int32_t child : children[j]) add(pattern[child]), List().swap(pattern[child]);
    Supernode next{j, 1, 0, pattern[j]};
    while (!found.empty()) {
      const Supernode& last = found.back();
      const int32_t end = last.first + last.width;
      if (end != next.first || parent[end - 1] < next.first || parent[end - 1] >= next.first + next.width) break;
      const int64_t more = static_cast<int64_t>(next.width + next.below.size()) - static_cast<int64_t>(last.below.size());
      Supernode joined{last.first, last.width + next.width, last.zeros + next.zeros + last.width * more, {}};
      joined.below.swap(next.below);
      const double allowed = zeros_allowed(joined.width) * static_cast<double>(joined.entries());
      if (static_cast<double>(joined.zeros) > allowed) {
        next.below.swap(joined.below);
        break;
      }
      next = std::move(joined);
      found.pop_back();
    }
    found.push_back(std::move(next));
  }
  return found;
}

/// Supernodes of at most kPanelWidth columns, their rows ascending.
std::vector<Supernode> split_wide(std::vector<Supernode> supernodes) {
  std::vector<Supernode> found;
  for (Supernode& s : supernodes) {
    std::sort(s.below.begin(), s.below.end());
    const int32_t parts = (s.width + kPanelWidth - 1) / kPanelWidth, end = s.first + s.width;
    for (int32_t part = 0; part < parts; ++part) {
      const int32_t from = s.first + s.width * part / parts, to = s.first + s.width * (part + 1) / parts;
      List below(end - to);
      std::iota(below.begin(), below.end(), to);
      below.insert(below.end(), s.below.begin(), s.below.end());
      found.push_back({from, to - from, 0, std::move(below)});
    }
  }
  return found;
}

}  // namespace

std::vector<int32_t> ldl_analyse(int32_t n, int32_t entries, const int32_t* rows, const int32_t* cols) {
  List identity(n);
  std::iota(identity.begin(), identity.end(), 0);
  std::vector<List> neighbours = lower_columns(identity, entries, rows, cols);
  for (int32_t j = 0; j < n; ++j) {
    std::sort(neighbours[j].begin(), neighbours[j].end());
    neighbours[j].erase(std::unique(neighbours[j].begin(), neighbours[j].end()), neighbours[j].end());
  }
  for (int32_t j = 0; j < n; ++j) {  // rows are greater than their column: what is added here is not read here
    for (const int32_t i : neighbours[j]) {
      if (i > j) neighbours[i].push_back(j);
    }
  }
  List order = minimum_degree(std::move(neighbours));

  const auto inverse = [n](const List& permutation) {
    List position(n);
    for (int32_t k = 0; k < n; ++k) position[permutation[k]] = k;
    return position;
  };
  const List tree = elimination_tree(n, lower_columns(inverse(order), entries, rows, cols));
  const List after = postorder(tree), number = inverse(after);
  List parent(n), ordered(n);
  for (int32_t k = 0; k < n; ++k) {
    ordered[k] = order[after[k]];
    parent[k] = tree[after[k]] < 0 ? -1 : number[tree[after[k]]];
  }
  const List position = inverse(ordered);
  const auto supernodes = split_wide(find_supernodes(lower_columns(position, entries, rows, cols), parent));

  const int32_t count = static_cast<int32_t>(supernodes.size());
  List first{0}, row_start{0}, all_rows, panel{0}, of_pivot(n);
  int32_t height = 0;
  for (int32_t s = 0; s < count; ++s) {
    const Supernode& node = supernodes[s];
    std::fill_n(of_pivot.begin() + node.first, node.width, s);
    all_rows.insert(all_rows.end(), node.below.begin(), node.below.end());
    const int32_t tall = node.width + static_cast<int32_t>(node.below.size());
    first.push_back(node.first + node.width);
    row_start.push_back(static_cast<int32_t>(all_rows.size()));
    panel.push_back(panel.back() + tall * node.width);
    height = std::max(height, tall);
  }

  std::vector<std::vector<LdlPlan::Update>> updates(count);
  for (int32_t s = 0; s < count; ++s) {
    const List& below = supernodes[s].below;
    for (size_t i = 0; i < below.size();) {
      const int32_t target = of_pivot[below[i]];
      size_t end = i;
      while (end < below.size() && of_pivot[below[end]] == target) ++end;
      updates[target].push_back({s, static_cast<int32_t>(i), static_cast<int32_t>(end - i)});
      i = end;
    }
  }
  List update_start{0};
  for (const auto& list : updates) update_start.push_back(update_start.back() + static_cast<int32_t>(list.size()));

  const auto place = [&](int32_t a, int32_t b) {
    const auto [col, row] = std::minmax({position[a], position[b]});
    const int32_t s = of_pivot[col];
    const Supernode& node = supernodes[s];
    int32_t i = row - node.first;
    if (i >= node.width) {
      const auto at = std::lower_bound(node.below.begin(), node.below.end(), row);
      i = node.width + static_cast<int32_t>(at - node.below.begin());
    }
    return panel[s] + (col - node.first) * (node.width + static_cast<int32_t>(node.below.size())) + i;
  };
  List words{n, count, row_start.back(), panel.back(), update_start.back(), entries, height};
  for (const List* list : {&ordered, &first, &row_start, &all_rows, &panel, &update_start}) {
    words.insert(words.end(), list->begin(), list->end());
  }
  for (const auto& list : updates) {
    for (const auto& update : list) words.insert(words.end(), {update.source, update.from, update.count});
  }
  for (int32_t e = 0; e < entries; ++e) words.push_back(place(rows[e], cols[e]));
  for (int32_t i = 0; i < n; ++i) words.push_back(place(i, i));
  return words;
}

LdlPlan::LdlPlan(const int32_t* words) {
  const auto take = [&words](int64_t count) {
    const int32_t* start = words;
    words += count;
    return start;
  };
  const int32_t* s = take(7);
  size = {s[0], s[1], s[2], s[3], s[4], s[5], s[6]};
  order = take(size.n);
  first = take(size.supernodes + 1);
  row_start = take(size.supernodes + 1);
  rows = take(size.rows);
  panel = take(size.supernodes + 1);
  update_start = take(size.supernodes + 1);
  static_assert(sizeof(Update) == 3 * sizeof(int32_t));
  updates = reinterpret_cast<const Update*>(take(3 * static_cast<int64_t>(size.updates)));
  slot = take(size.entries);
  diagonal = take(size.n);
}

}  // namespace optl
