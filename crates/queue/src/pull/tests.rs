// SPDX-License-Identifier: Apache-2.0

//! When a class is asked, and for how much.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;

/// A class of a queue in memory, and the requests to it.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    builds: VecDeque<&'static str>,
    /// The requests since the last look.
    asked: Vec<Asked>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Now,
    Within(Duration),
}

impl Memory {
    fn of(builds: impl IntoIterator<Item = &'static str>) -> Self {
        let class = Self::default();
        class.add(builds);
        class
    }

    fn add(&self, builds: impl IntoIterator<Item = &'static str>) {
        self.0.lock().expect("nobody panicked").builds.extend(builds);
    }

    /// Returns what it was asked since the last call.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.0.lock().expect("nobody panicked").asked)
    }

    fn answer(&self, most: usize) -> Answer {
        let mut held = self.0.lock().expect("nobody panicked");
        let count = most.min(held.builds.len());
        futures::stream::iter(held.builds.drain(..count).map(Ok).collect::<Vec<_>>())
    }
}

type Answer = futures::stream::Iter<std::vec::IntoIter<Result<&'static str, async_nats::Error>>>;

impl Consumer for Memory {
    type Message = &'static str;
    type Request = Answer;

    async fn now(&self, most: usize) -> Result<Answer, async_nats::Error> {
        self.0.lock().expect("nobody panicked").asked.push(Asked::Now);
        Ok(self.answer(most))
    }

    async fn within(&self, time: Duration, most: usize) -> Result<Answer, async_nats::Error> {
        self.0.lock().expect("nobody panicked").asked.push(Asked::Within(time));
        Ok(self.answer(most))
    }
}

/// Takes from three classes.
fn puller(classes: [&Memory; 3]) -> Classes<Memory> {
    let (_never, connections) = tokio::sync::watch::channel(0);
    let weights = Priority::ALL.map(|(_, _, weight)| weight);
    Classes::new(classes.map(Memory::clone).into(), &weights, Reconnections::new(&connections))
}

/// A round of turns: each class has a share in it.
const ROUND: usize = 21;

#[tokio::test(start_paused = true)]
async fn a_class_that_was_empty_while_others_were_not_is_asked_again_after_a_rest() {
    let (high, normal, low) = (Memory::default(), Memory::of(["n"; 2000]), Memory::default());
    let mut puller = puller([&high, &normal, &low]);
    assert_eq!(puller.available(ROUND).await, ["n"; ROUND]);
    assert_eq!((high.asked(), low.asked()), (vec![Asked::Now], vec![Asked::Now]));
    // A worker with short builds: free slots in each millisecond.
    for _ in 1..IDLE_CLASS_PAUSE.as_millis() {
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(puller.available(ROUND).await, ["n"; ROUND]);
    }
    assert_eq!((high.asked(), low.asked()), (vec![], vec![]), "not each time");
    assert!(!normal.asked().is_empty());
    high.add(["h"]);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(puller.available(ROUND).await[..2], ["h", "n"], "it is not forgotten");
    // By a request that moves its consumer on; the least that the server counts.
    let glance = vec![Asked::Within(IDLE_CLASS_EXPIRES)];
    assert_eq!((high.asked(), low.asked()), (glance.clone(), glance), "once");
}

#[tokio::test(start_paused = true)]
async fn a_class_that_has_builds_does_not_rest() {
    let (high, normal, low) = (Memory::of(["h"; 100]), Memory::of(["n"; 4]), Memory::default());
    let mut puller = puller([&high, &normal, &low]);
    for _ in 0..3 {
        assert_eq!(puller.available(ROUND).await.len(), ROUND);
        let asked = high.asked();
        assert!(!asked.is_empty() && asked.iter().all(|asked| *asked == Asked::Now), "{asked:?}");
    }
    assert_eq!(low.asked(), [Asked::Now], "as the empty one does");
}

#[tokio::test(start_paused = true)]
async fn when_all_classes_are_empty_a_request_waits_in_each() {
    let classes = [(); 3].map(|()| Memory::default());
    let [high, normal, low] = &classes;
    let mut puller = puller([high, normal, low]);
    assert!(puller.available(2).await.is_empty());
    high.asked();
    assert!(puller.classes[0].wait().await);
    assert_eq!(high.asked(), [Asked::Within(REQUEST_EXPIRES)]);
    assert!(!puller.classes[0].is_paused(), "what that one brings is taken at once");
    assert!(puller.classes[1].is_paused());
}
