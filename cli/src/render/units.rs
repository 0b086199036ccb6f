// SPDX-License-Identifier: Apache-2.0

//! Durations and ages for people. Sizes are written by the crate of the protocol, so that worker
//! and client write one size in one way.

use std::time::Duration;

use slipway_proto::Timestamp;

/// Writes how long something took.
#[must_use]
pub fn duration(time: Duration) -> String {
    let micros = time.as_micros();
    let seconds = time.as_secs_f64();
    if micros < 1000 {
        return format!("{micros} µs");
    }
    if micros < 9_950 {
        return format!("{:.1} ms", seconds * 1e3);
    }
    if micros < 999_500 {
        return format!("{:.0} ms", seconds * 1e3);
    }
    if seconds < 9.995 {
        return format!("{seconds:.2} s");
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = (time + Duration::from_millis(500)).as_secs();
    match whole {
        0..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Writes how long ago something was, in one unit. A time in the future, by a clock that disagrees,
/// is now.
#[must_use]
pub fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    match seconds {
        0 => "now".to_owned(),
        1..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Returns the time between two instants; zero if the second is before the first.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_unit_that_fits() {
        for (micros, text) in [
            (430, "430 µs"),
            (1_234, "1.2 ms"),
            (45_400, "45 ms"),
            (999_499, "999 ms"),
            (999_500, "1.00 s"),
            (1_240_000, "1.24 s"),
            (12_340_000, "12.3 s"),
            (59_960_000, "1 min 0 s"),
            (192_000_000, "3 min 12 s"),
            (7_500_000_000, "2 h 5 min"),
            (180_000_000_000, "2 d 2 h"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn ages_are_relative_to_now() {
        let now = Timestamp::from_second(1_000_000).expect("a time");
        let ago =
            |seconds: i64| age(Timestamp::from_second(1_000_000 - seconds).expect("a time"), now);
        assert_eq!(ago(-5), "now");
        assert_eq!(ago(0), "now");
        assert_eq!(ago(119), "119 s ago");
        assert_eq!(ago(120), "2 min ago");
        assert_eq!(ago(7200), "2 h ago");
        assert_eq!(ago(200_000), "2 d ago");
    }
}
