// SPDX-License-Identifier: MIT
#pragma once

#include <utility>

/// A doubly linked list whose links live in its members: linking allocates nothing, and a member
/// that is destroyed leaves no trace in whatever list holds it.
namespace guestio::task {

template <typename T>
class IntrusiveList;

/// The links. `class Waiter : public ListNode<Waiter>` can be in one IntrusiveList<Waiter> at a
/// time. Not thread-safe: a node and its list belong to one thread.
template <typename T>
class ListNode {
 public:
  ListNode() noexcept = default;
  ListNode(const ListNode&) = delete;
  ListNode& operator=(const ListNode&) = delete;
  ~ListNode() { unlink(); }

  [[nodiscard]] bool is_linked() const noexcept { return next_ != nullptr; }

  /// Leaves the list that holds it, whichever that is; nothing happens when there is none.
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

/// First in, first out. Does not own its members; those left at its end are unlinked.
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

  /// The oldest member, which stays; nullptr when empty.
  [[nodiscard]] T* front() noexcept { return is_empty() ? nullptr : static_cast<T*>(head_.next_); }

  /// Requires: `member` is in no list.
  void push_back(T& member) noexcept {
    ListNode<T>& node = member;
    node.next_ = &head_;
    node.previous_ = head_.previous_;
    head_.previous_->next_ = &node;
    head_.previous_ = &node;
  }

  /// Unlinks the oldest member and gives it back; nullptr when empty.
  T* pop_front() noexcept {
    T* const member = front();
    if (member != nullptr) static_cast<ListNode<T>*>(member)->unlink();
    return member;
  }

  /// Moves all members of `other` behind its own, in order.
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
