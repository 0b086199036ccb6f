// SPDX-License-Identifier: Apache-2.0

//! Subscribers of an event stream that cost as little as they can: one thread that waits for all of
//! their sockets at once, reads each into the same buffer, and looks at the beginnings of its lines.

use std::io::{BufRead as _, ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::sync::oneshot;

/// How long a subscriber may wait for the next event.
const LIMIT: Duration = Duration::from_secs(20);
/// How much is read of a socket at once: more than all the events of a measurement.
const BUFFER: usize = 256 * 1024;

/// When an event was read, by its id.
type Arrival = (u64, Instant);

/// The thread that reads.
pub(super) struct Readers(oneshot::Receiver<anyhow::Result<Vec<Arrival>>>);

impl Readers {
    /// Starts to read streams that were answered, until each has had so many events behind an id.
    pub(super) fn start(
        streams: Vec<TcpStream>,
        events: usize,
        behind: u64,
    ) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut subscribers = Vec::with_capacity(streams.len());
        for (number, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
            subscribers.push(Subscriber { stream, frames: Frames::default() });
        }
        let (done, read) = oneshot::channel();
        std::thread::Builder::new().name("readers".to_owned()).spawn(move || {
            let _nobody_waits = done.send(read_all(&epoll, &mut subscribers, events, behind));
        })?;
        Ok(Self(read))
    }

    /// Waits until all was read, and returns when each subscriber had which event.
    pub(super) async fn finish(self) -> anyhow::Result<Vec<Arrival>> {
        self.0.await.context("the readers' thread ended early")?
    }
}

struct Subscriber {
    stream: TcpStream,
    frames: Frames,
}

fn read_all(
    epoll: &Epoll,
    subscribers: &mut [Subscriber],
    events: usize,
    behind: u64,
) -> anyhow::Result<Vec<Arrival>> {
    let missing = events * subscribers.len();
    let mut arrivals = Vec::with_capacity(missing);
    let mut buffer = vec![0; BUFFER];
    let mut ready = vec![EpollEvent::empty(); subscribers.len()];
    let limit = EpollTimeout::try_from(LIMIT)?;
    while arrivals.len() < missing {
        let count = epoll.wait(&mut ready, limit)?;
        ensure!(count > 0, "{} of {missing} events were read", arrivals.len());
        for event in &ready[..count] {
            let subscriber = &mut subscribers[usize::try_from(event.data())?];
            let read = match subscriber.stream.read(&mut buffer) {
                Ok(0) => bail!("a stream ended"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error).context("a stream broke off"),
            };
            let now = Instant::now();
            subscriber.frames.read(&buffer[..read], |id| {
                // The opening of a stream names what was before it.
                if id > behind {
                    arrivals.push((id, now));
                }
            });
        }
    }
    Ok(arrivals)
}

/// Finds the frames in what a stream sends. Lines of the transfer encoding stand between those of
/// frames, and look like none of them.
#[derive(Debug, Default)]
struct Frames {
    /// The beginning of a line whose end is on its way.
    rest: Vec<u8>,
    /// The id of the frame that is being read.
    id: Option<u64>,
}

impl Frames {
    /// Takes the next bytes, and tells the id of each frame that ends in them, if it has one.
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
