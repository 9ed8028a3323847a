// Abseil's notification on the standard library: the sanitizers see through it, as they do not
// through that in TensorFlow's libraries.
#ifndef TFGN_TESTS_ABSL_NOTIFICATION_H_
#define TFGN_TESTS_ABSL_NOTIFICATION_H_

#include <condition_variable>
#include <cstdlib>
#include <mutex>

#include "absl/time/time.h"

namespace absl {

class Notification {
 public:
  void Notify() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (is_notified_) std::abort();  // Abseil allows one call.
    is_notified_ = true;
    changed_.notify_all();
  }
  void WaitForNotification() const {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return is_notified_; });
  }
  bool WaitForNotificationWithTimeout(Duration timeout) const {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] { return is_notified_; });
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  bool is_notified_ = false;
};

}  // namespace absl

#endif  // TFGN_TESTS_ABSL_NOTIFICATION_H_
