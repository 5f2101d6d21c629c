// A fill-reducing order by approximate minimum degree on the quotient graph: eliminated vertices become elements.
#include <algorithm>
#include <utility>

#include "cpu/ldl_plan.h"

namespace optl {

namespace {

using List = std::vector<int32_t>;

/// Vertices by degree: the doubly linked lists of a bucket sort.
class Buckets {
 public:
  explicit Buckets(int32_t n) : head_(n, -1), next_(n), previous_(n), degree_(n) {}
  void insert(int32_t i, int32_t degree) {
    degree_[i] = degree, previous_[i] = -1, next_[i] = head_[degree];
    if (head_[degree] >= 0) previous_[head_[degree]] = i;
    head_[degree] = i;
    least_ = std::min(least_, degree);
  }
  void remove(int32_t i) {
    if (next_[i] >= 0) previous_[next_[i]] = previous_[i];
    (previous_[i] >= 0 ? next_[previous_[i]] : head_[degree_[i]]) = next_[i];
  }
  int32_t pop() {
    while (head_[least_] < 0) ++least_;
    const int32_t i = head_[least_];
    remove(i);
    return i;
  }
  int32_t degree(int32_t i) const { return degree_[i]; }

 private:
  List head_, next_, previous_, degree_;
  int32_t least_ = 0;
};

class QuotientGraph {
 public:
  explicit QuotientGraph(std::vector<List> neighbours)
      : n_(static_cast<int32_t>(neighbours.size())), vertices_(std::move(neighbours)), elements_(n_), members_(n_),
        followers_(n_), weight_(n_, 1), size_(n_, 0), outside_(n_), mark_(n_, -1), seen_(n_, -1), degree_(n_),
        buckets_(n_) {}

  List order() {
    for (int32_t i = 0; i < n_; ++i) buckets_.insert(i, static_cast<int32_t>(vertices_[i].size()));
    List found;
    found.reserve(n_);
    while (static_cast<int32_t>(found.size()) < n_) {
      const int32_t p = buckets_.pop();
      emit(p, found);
      weight_[p] = 0;
      make_element(p);
      measure_outside(p);
      update_members(p, found);
      merge_alike(p);
      finish(p, n_ - static_cast<int32_t>(found.size()));
    }
    return found;
  }

 private:
  /// A vertex and all that were found to be like it.
  void emit(int32_t i, List& found) {
    found.push_back(i);
    for (const int32_t j : followers_[i]) emit(j, found);
  }

  bool is_live(int32_t i) const { return weight_[i] > 0; }

  /// The neighbours of p become the members of element p, which absorbs the elements of p.
  void make_element(int32_t p) {
    List& members = members_[p];
    mark_[p] = p;
    const auto add = [&](const List& list) {
      for (const int32_t i : list) {
        if (is_live(i) && mark_[i] != p) mark_[i] = p, members.push_back(i);
      }
    };
    for (const int32_t e : elements_[p]) add(members_[e]), kill(e);
    add(vertices_[p]);
    List().swap(vertices_[p]), List().swap(elements_[p]);
    size_[p] = 0;
    for (const int32_t i : members) size_[p] += weight_[i], buckets_.remove(i);
  }

  void kill(int32_t e) { List().swap(members_[e]), size_[e] = 0; }

  /// For each element next to p, how much of it is outside of p.
  void measure_outside(int32_t p) {
    for (const int32_t i : members_[p]) {
      for (const int32_t e : elements_[i]) {
        if (size_[e] == 0) continue;
        if (seen_[e] != p) seen_[e] = p, outside_[e] = size_[e];
        outside_[e] -= weight_[i];
      }
    }
  }

  /// What is inside p need not be listed by its members; those with nothing else to list go with p.
  void update_members(int32_t p, List& found) {
    for (const int32_t i : members_[p]) {
      List elements{p};
      int32_t degree = 0;
      for (const int32_t e : elements_[i]) {
        if (size_[e] == 0) continue;
        if (outside_[e] == 0) {
          kill(e);
        } else {
          elements.push_back(e), degree += outside_[e];
        }
      }
      elements_[i] = std::move(elements);
      std::erase_if(vertices_[i], [&](int32_t j) { return !is_live(j) || mark_[j] == p; });
      for (const int32_t j : vertices_[i]) degree += weight_[j];
      degree_[i] = degree;
    }
    for (const int32_t i : members_[p]) {
      if (elements_[i].size() > 1 || !vertices_[i].empty()) continue;
      emit(i, found);
      size_[p] -= weight_[i], weight_[i] = 0;
    }
    std::erase_if(members_[p], [&](int32_t i) { return !is_live(i); });
  }

  /// Members with the same neighbours will be eliminated together.
  void merge_alike(int32_t p) {
    std::vector<std::pair<int64_t, int32_t>> keyed;
    for (const int32_t i : members_[p]) {
      int64_t key = 0;
      for (const int32_t e : elements_[i]) key += e;
      for (const int32_t j : vertices_[i]) key += j;
      std::sort(elements_[i].begin(), elements_[i].end());
      std::sort(vertices_[i].begin(), vertices_[i].end());
      keyed.emplace_back(key, i);
    }
    std::sort(keyed.begin(), keyed.end());
    for (size_t a = 0; a < keyed.size(); ++a) {
      const int32_t i = keyed[a].second;
      if (!is_live(i)) continue;
      for (size_t b = a + 1; b < keyed.size() && keyed[b].first == keyed[a].first; ++b) {
        const int32_t j = keyed[b].second;
        if (!is_live(j) || elements_[i] != elements_[j] || vertices_[i] != vertices_[j]) continue;
        weight_[i] += weight_[j], weight_[j] = 0;
        followers_[i].push_back(j);
        List().swap(vertices_[j]), List().swap(elements_[j]);
      }
    }
    std::erase_if(members_[p], [&](int32_t i) { return !is_live(i); });
  }

  /// Bounds of the new degrees: exact but for what several elements outside of p share.
  void finish(int32_t p, int32_t left) {
    for (const int32_t i : members_[p]) {
      const int32_t others = size_[p] - weight_[i];
      const int32_t bound = std::min(buckets_.degree(i), degree_[i]) + others;
      buckets_.insert(i, std::max(0, std::min(bound, left - weight_[i])));
    }
  }

  int32_t n_;
  std::vector<List> vertices_, elements_;  // of a vertex: neighbours that no element covers, and elements it is in
  std::vector<List> members_;              // of an element
  std::vector<List> followers_;            // of a vertex: those merged into it
  List weight_;                            // vertices that one stands for; 0 of what is gone
  List size_;                              // weight of the members of an element; 0 of none
  List outside_, mark_, seen_, degree_;
  Buckets buckets_;
};

}  // namespace

std::vector<int32_t> minimum_degree(std::vector<std::vector<int32_t>> neighbours) {
  return QuotientGraph(std::move(neighbours)).order();
}

}  // namespace optl
