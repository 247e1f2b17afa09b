// SPDX-License-Identifier: MIT
#pragma once

#include <utility>

/// A doubly linked list with the links in its members. Linking allocates nothing. A destroyed
/// member unlinks itself.
namespace guestio::task {

template <typename T>
class IntrusiveList;

/// The links. A `class Waiter : public ListNode<Waiter>` is in at most one IntrusiveList<Waiter>.
/// Threads: one, for a list and its nodes.
template <typename T>
class ListNode {
 public:
  ListNode() noexcept = default;
  ListNode(const ListNode&) = delete;
  ListNode& operator=(const ListNode&) = delete;
  ~ListNode() { unlink(); }

  [[nodiscard]] bool is_linked() const noexcept { return next_ != nullptr; }

  /// Removes the node from its list; a no-op if it is in none.
  void unlink() noexcept {
    if (next_ == nullptr) return;
    previous_->next_ = next_;
    next_->previous_ = previous_;
    next_ = nullptr;
    previous_ = nullptr;
  }

 private:
  friend class IntrusiveList<T>;

  ListNode* previous_ = nullptr;
  ListNode* next_ = nullptr;
};

/// A FIFO list. Does not own its members; the destructor unlinks the remaining ones.
template <typename T>
class IntrusiveList {
 public:
  IntrusiveList() noexcept {
    head_.next_ = &head_;
    head_.previous_ = &head_;
  }
  IntrusiveList(const IntrusiveList&) = delete;
  IntrusiveList& operator=(const IntrusiveList&) = delete;
  ~IntrusiveList() {
    while (pop_front() != nullptr) {
    }
  }

  [[nodiscard]] bool is_empty() const noexcept { return head_.next_ == &head_; }

  /// The oldest member; nullptr when empty.
  [[nodiscard]] T* front() noexcept { return is_empty() ? nullptr : static_cast<T*>(head_.next_); }

  /// Requires: `member` is in no list.
  void push_back(T& member) noexcept {
    ListNode<T>& node = member;
    node.next_ = &head_;
    node.previous_ = head_.previous_;
    head_.previous_->next_ = &node;
    head_.previous_ = &node;
  }

  /// Unlinks and returns the oldest member; nullptr when empty.
  T* pop_front() noexcept {
    T* const member = front();
    if (member != nullptr) static_cast<ListNode<T>*>(member)->unlink();
    return member;
  }

  /// Moves all members of `other` to the back, in order.
  void splice_back(IntrusiveList& other) noexcept {
    if (other.is_empty()) return;
    ListNode<T>* const first = other.head_.next_;
    ListNode<T>* const last = other.head_.previous_;
    other.head_.next_ = &other.head_;
    other.head_.previous_ = &other.head_;
    first->previous_ = head_.previous_;
    head_.previous_->next_ = first;
    last->next_ = &head_;
    head_.previous_ = last;
  }

 private:
  ListNode<T> head_;  // a ring: the first member follows it, the last one precedes it
};

}  // namespace guestio::task
