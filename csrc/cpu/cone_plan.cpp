// The symbolic analysis of cone programs: collects the entries of the KKT matrix.
#include "cpu/cone_plan.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace optl {

namespace {

using List = std::vector<int32_t>;

/// Up to this dimension the scaling matrix of a second-order cone is dense; beyond, it is sparse in two more variables.
constexpr int32_t kDenseRows = 8;

/// Entries of K.
struct Entries {
  List rows, cols;

  int32_t add(int32_t row, int32_t col) {
    rows.push_back(row), cols.push_back(col);
    return static_cast<int32_t>(rows.size()) - 1;
  }

  /// A block of the data, `shift` rows down, by columns and without duplicates: the slot of each given entry, and the
  /// first entry of each of n columns.
  void add_data(int32_t n, const ConePattern& given, int32_t shift, bool symmetric, List& slot, List& start) {
    const auto place = [&](int32_t e) {
      const auto [low, high] = std::minmax(given.rows[e], given.cols[e]);
      return symmetric ? std::pair(high, low) : std::pair(given.cols[e], given.rows[e]);
    };
    List by_place(given.count);
    std::iota(by_place.begin(), by_place.end(), 0);
    std::stable_sort(by_place.begin(), by_place.end(), [&](int32_t a, int32_t b) { return place(a) < place(b); });
    slot.resize(given.count), start.clear();
    std::pair<int32_t, int32_t> last{-1, -1};
    int32_t at = -1;
    for (const int32_t e : by_place) {
      const auto here = place(e);
      while (static_cast<int32_t>(start.size()) <= here.first) start.push_back(static_cast<int32_t>(rows.size()));
      if (here != last) at = add(here.second + shift, here.first);
      slot[e] = at, last = here;
    }
    start.resize(n + 1, static_cast<int32_t>(rows.size()));
  }
};

/// The blocks in the order of the rows, and the entries of H.
std::vector<ConePlan::Block> add_cones(const ConeSizes& cones, int32_t n, int32_t m, Entries& entries) {
  std::vector<ConePlan::Block> blocks;
  int32_t row = 0, extra = n + m;
  const auto add = [&](ConeKind kind, int32_t rows, int32_t order, int32_t place) {
    if (rows == 0) return;
    ConePlan::Block block{kind, row, rows, order, static_cast<int32_t>(entries.rows.size()), -1, place};
    const int32_t first = n + row;
    if (kind == kNonnegative || kind == kZeroCone) {
      for (int32_t i = 0; i < rows && kind == kNonnegative; ++i) entries.add(first + i, first + i);
    } else if (kind == kSecondOrder && rows > kDenseRows) {
      block.extra = extra;
      for (int32_t i = 0; i < rows; ++i) entries.add(first + i, first + i);
      for (int32_t i = 0; i < rows; ++i) entries.add(first + i, extra);
      for (int32_t i = 1; i < rows; ++i) entries.add(first + i, extra + 1);
      entries.add(extra, extra), entries.add(extra + 1, extra + 1);
      extra += 2;
    } else {
      for (int32_t j = 0; j < rows; ++j) {
        for (int32_t i = 0; i <= j; ++i) entries.add(first + i, first + j);
      }
    }
    blocks.push_back(block);
    row += rows;
  };
  add(kZeroCone, cones.zero, 0, 0);
  add(kNonnegative, cones.nonneg, 0, 0);
  for (const int32_t d : cones.second_order) add(kSecondOrder, d, 0, 0);
  int32_t place = 0;
  for (const int32_t k : cones.semidefinite) add(kSemidefinite, k * (k + 1) / 2, k, place), place += 2 * k * k + k;
  for (int32_t i = 0; i < cones.exponential; ++i) add(kExponentialCone, 3, 0, 0);
  for (int32_t i = 0; i < cones.power; ++i) add(kPowerCone, 3, 0, i);
  return blocks;
}

int32_t degree(const ConeSizes& cones) {
  return cones.nonneg + static_cast<int32_t>(cones.second_order.size()) +
         std::accumulate(cones.semidefinite.begin(), cones.semidefinite.end(), 0) +
         3 * (cones.exponential + cones.power);
}

constexpr int32_t kSizes = sizeof(ConePlan::Sizes) / sizeof(int32_t);
constexpr int32_t kBlock = sizeof(ConePlan::Block) / sizeof(int32_t);

}  // namespace

std::vector<int32_t> cone_analyse(int32_t n, const ConePattern& P, const ConePattern& A, const ConeSizes& cones) {
  Entries entries;
  List P_slot, A_slot, P_start, A_start;
  entries.add_data(n, P, 0, true, P_slot, P_start);
  const int32_t of_P = static_cast<int32_t>(entries.rows.size());
  entries.add_data(n, A, n, false, A_slot, A_start);
  const int32_t of_A = static_cast<int32_t>(entries.rows.size()) - of_P;

  ConePlan::Sizes size{};
  size.m = cones.zero + cones.nonneg + 3 * (cones.exponential + cones.power);
  for (const int32_t d : cones.second_order) size.m += d, size.tallest = std::max(size.tallest, d);
  for (const int32_t k : cones.semidefinite) {
    size.m += k * (k + 1) / 2;
    size.scalings += 2 * k * k + k;
    size.largest = std::max(size.largest, k), size.tallest = std::max(size.tallest, k * (k + 1) / 2);
  }
  size.triples = cones.exponential + cones.power;
  if (size.triples) size.tallest = std::max(size.tallest, 3);
  const auto blocks = add_cones(cones, n, size.m, entries);
  size.order = n + size.m;
  for (const auto& block : blocks) size.order += block.extra < 0 ? 0 : 2;
  size.n = n, size.P_given = P.count, size.A_given = A.count, size.P = of_P, size.A = of_A;
  size.entries = static_cast<int32_t>(entries.rows.size());
  size.blocks = static_cast<int32_t>(blocks.size()), size.degree = degree(cones);

  List words(kSizes);
  std::memcpy(words.data(), &size, sizeof size);
  words.resize(kSizes + kBlock * blocks.size());
  if (!blocks.empty()) std::memcpy(words.data() + kSizes, blocks.data(), sizeof(ConePlan::Block) * blocks.size());
  for (const List* list : {&P_slot, &A_slot, &P_start, &A_start, &entries.rows, &entries.cols}) {
    words.insert(words.end(), list->begin(), list->end());
  }
  const List ldl = ldl_analyse(size.order, size.entries, entries.rows.data(), entries.cols.data());
  words.insert(words.end(), ldl.begin(), ldl.end());
  return words;
}

namespace {

const int32_t* take(const int32_t*& words, int32_t count) {
  const int32_t* start = words;
  words += count;
  return start;
}

ConePlan::Sizes read_sizes(const int32_t* words) {
  ConePlan::Sizes size;
  std::memcpy(&size, words, sizeof size);
  return size;
}

}  // namespace

ConePlan::ConePlan(const int32_t* words)
    : size(read_sizes(take(words, kSizes))),
      blocks(reinterpret_cast<const Block*>(take(words, kBlock * size.blocks))),
      P_slot(take(words, size.P_given)),
      A_slot(take(words, size.A_given)),
      P_start(take(words, size.n + 1)),
      A_start(take(words, size.n + 1)),
      rows(take(words, size.entries)),
      cols(take(words, size.entries)),
      ldl(words) {}

}  // namespace optl
