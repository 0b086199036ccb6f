// SPDX-License-Identifier: Apache-2.0

//! Subscribers at the lowest cost: a thread for each processor, which waits for all of its sockets
//! at once, reads each into the same buffer, and checks the beginnings of lines.

use std::io::{BufRead as _, ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::sync::oneshot;

/// How long a subscriber may wait for the next event.
const LIMIT: Duration = Duration::from_secs(20);
/// How much is read from a socket at once, in bytes: more than all the events of a measurement.
const BUFFER: usize = 256 * 1024;

/// How long a thread pauses after it has read everything. Without a pause each frame wakes it
/// again, and the sender pays for the wake-up: a third of the dispatcher's time for a frame. An
/// event may count as read this much too late.
const GATHERING: Duration = Duration::from_micros(250);

/// When an event was read, by its id.
type Arrival = (u64, Instant);

/// The threads that read.
pub(super) struct Readers(Vec<oneshot::Receiver<anyhow::Result<Vec<Arrival>>>>);

impl Readers {
    /// Starts to read open streams, until each has had a number of events after an id.
    pub(super) fn start(
        mut streams: Vec<TcpStream>,
        events: usize,
        behind: u64,
    ) -> anyhow::Result<Self> {
        let mut threads = Vec::new();
        let share = streams.len().div_ceil(std::thread::available_parallelism()?.get());
        while !streams.is_empty() {
            let rest = streams.split_off(share.min(streams.len()));
            let mut readers = Reader::of(std::mem::replace(&mut streams, rest))?;
            let (done, read) = oneshot::channel();
            std::thread::Builder::new().name("readers".to_owned()).spawn(move || {
                let _nobody_waits = done.send(readers.read(events, behind));
            })?;
            threads.push(read);
        }
        Ok(Self(threads))
    }

    /// Waits until everything was read, and returns when each subscriber had each event.
    pub(super) async fn finish(self) -> anyhow::Result<Vec<Arrival>> {
        let mut arrivals = Vec::new();
        for thread in self.0 {
            arrivals.extend(thread.await.context("a thread of the readers ended early")??);
        }
        Ok(arrivals)
    }
}

/// The subscribers of one thread.
struct Reader {
    epoll: Epoll,
    subscribers: Vec<Subscriber>,
}

struct Subscriber {
    stream: TcpStream,
    frames: Frames,
}

impl Reader {
    fn of(streams: Vec<TcpStream>) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut subscribers = Vec::with_capacity(streams.len());
        for (number, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
            subscribers.push(Subscriber { stream, frames: Frames::default() });
        }
        Ok(Self { epoll, subscribers })
    }

    fn read(&mut self, events: usize, behind: u64) -> anyhow::Result<Vec<Arrival>> {
        let missing = events * self.subscribers.len();
        let mut arrivals = Vec::with_capacity(missing);
        let mut buffer = vec![0; BUFFER];
        let mut ready = vec![EpollEvent::empty(); self.subscribers.len()];
        let limit = EpollTimeout::try_from(LIMIT)?;
        while arrivals.len() < missing {
            let count = self.epoll.wait(&mut ready, limit)?;
            ensure!(count > 0, "{} of {missing} events were read", arrivals.len());
            for event in &ready[..count] {
                let subscriber = &mut self.subscribers[usize::try_from(event.data())?];
                let read = match subscriber.stream.read(&mut buffer) {
                    Ok(0) => bail!("a stream ended"),
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error).context("a stream broke off"),
                };
                let now = Instant::now();
                subscriber.frames.read(&buffer[..read], |id| {
                    // A stream opens with the id of the event before it.
                    if id > behind {
                        arrivals.push((id, now));
                    }
                });
            }
            std::thread::sleep(GATHERING);
        }
        Ok(arrivals)
    }
}

/// Finds the frames in a stream. Between them are lines of the transfer encoding, or of NATS's
/// protocol, which cannot be mistaken for lines of a frame.
#[derive(Debug, Default)]
struct Frames {
    /// The beginning of an incomplete line.
    rest: Vec<u8>,
    /// The id of the frame that is being read.
    id: Option<u64>,
}

impl Frames {
    /// Takes the next bytes, and reports the id of each frame that ends in them, if it has one.
    fn read(&mut self, mut text: &[u8], mut ended: impl FnMut(u64)) {
        loop {
            let before = text;
            let length = text.skip_until(b'\n').expect("reading memory does not fail");
            let line = &before[..length];
            if !line.ends_with(b"\n") {
                self.rest.extend_from_slice(line);
                return;
            }
            let line = if self.rest.is_empty() {
                self.line(line)
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole)
            };
            if let Some(id) = line {
                ended(id);
            }
        }
    }

    /// Takes a line, and returns the id of the frame that it ends.
    fn line(&mut self, line: &[u8]) -> Option<u64> {
        if let Some(id) = line.strip_prefix(b"id: ") {
            self.id = str::from_utf8(id).ok().and_then(|id| id.trim_end().parse().ok());
            return None;
        }
        if line != b"\n" {
            return None;
        }
        self.id.take()
    }
}

#[cfg(test)]
mod tests {
    use super::Frames;

    #[test]
    fn frames_in_messages_of_nats_are_read() {
        let frame = "id: 7\nevent: build.stage\ndata: {\"id: 9\"}\n\n";
        let text = format!("MSG bare.fanout 1 {}\r\n{frame}\r\nPING\r\n", frame.len());
        let (mut frames, mut seen) = (Frames::default(), Vec::new());
        frames.read(text.as_bytes(), |id| seen.push(id));
        assert_eq!(seen, [7]);
    }

    #[test]
    fn frames_are_read_when_their_last_byte_is() {
        let text = b"ontent-type: text/event-stream\r\n\r\n1c\r\nretry: 1000\nid: 41\n\n\r\n\
            2a\r\nid: 42\nevent: build.stage\ndata: {\"id: 7\"}\n\n\r\n9\r\n: alive\n\n\r\n\
            2a\r\nid: 43\nevent: build.stage\ndata: {}\n\n";
        for size in 1..text.len() {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            let mut position = 0;
            for piece in text.chunks(size) {
                position += piece.len();
                frames.read(piece, |id| seen.push((id, position)));
            }
            let ids: Vec<_> = seen.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids, [41, 42, 43]);
            assert_eq!(seen[2].1, text.len(), "not before its end");
        }
    }
}
