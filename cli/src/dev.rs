// SPDX-License-Identifier: Apache-2.0

//! `slipway dev`: all of Slipway on this machine, in one command.
//!
//! nats-server runs as a child process, dispatcher and worker inside this one: the same code as in
//! production, on loopback and in a directory that is kept between runs. Not a container, because a
//! CI machine may have nothing to run one with.

mod data_dir;
mod error;
mod nats;
mod ready;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use slipway_queue::NatsConfig;
use slipway_service::directories::{self, StoreConfig};
use slipway_service::signals::Signals;
use slipway_worker::config::CacheConfig;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::args::DevArgs;
use crate::local;
use crate::output::Output;
use data_dir::DataDir;
use nats::NatsServer;
use slipway_service::Exit;

pub use error::{DevError, PartError};

/// Where the dispatcher listens, and where clients look for it, by default.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);

/// How many seconds the worker may continue with what it holds. Few, because what it gives back is
/// not lost, and a person waits for the prompt.
const DRAIN_GRACE_S: u64 = 3;

/// How long the worker may take to stop: its grace, and the 10 s for giving back the rest, which it
/// needs only if NATS does not answer.
const WORKER_STOP_DEADLINE: Duration = Duration::from_secs(15);

/// How long the dispatcher may take to stop.
const DISPATCHER_STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How long each part may take when another ended by itself, because what it would wait for is
/// gone.
const ORPHANED_STOP_DEADLINE: Duration = Duration::from_secs(1);

/// Runs until a signal or until a part ends by itself.
///
/// Must be called from the main thread; see [`NatsServer::start`].
///
/// # Errors
///
/// When a part does not start, or ends by itself.
pub(crate) async fn run(args: DevArgs, output: &Output) -> Result<Exit, DevError> {
    let mut signals = Signals::listen();
    let started = tokio::select! {
        started = Stack::start(&args) => started?,
        () = signals.next() => return Ok(Exit::Ok),
    };
    let stopped = async {
        let mut stack = started;
        ready::tell(output, stack.address, stack.nats.url(), stack.data.path());
        let ended = tokio::select! {
            error = stack.ended_by_itself() => Some(error),
            () = signals.next() => None,
        };
        match &ended {
            Some(_) => output.note("something ended by itself; stopping"),
            None => output.note("stopping; once more to stop at once"),
        }
        tokio::select! {
            () = stack.stop(ended.is_some()) => {}
            // Dropping the parts kills nats-server; the rest ends with this process.
            () = signals.next() => return Ok(Exit::Interrupted),
        }
        output.note("stopped");
        ended.map_or(Ok(Exit::Ok), Err)
    };
    Box::pin(stopped).await
}

/// Everything that runs.
struct Stack {
    address: SocketAddr,
    dispatcher: Part,
    worker: Part,
    nats: NatsServer,
    data: DataDir,
}

/// A part that runs as a task of this process.
struct Part {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Part {
    fn start<F>(run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(stop.clone()));
        Self { stop, task }
    }

    /// Returns when the task has ended, with its panic if it had one.
    async fn ended(&mut self) -> Option<PartError> {
        (&mut self.task).await.err().map(PartError::from)
    }

    async fn stop(self, deadline: Duration, name: &str) {
        self.stop.cancel();
        if self.task.is_finished() {
            return;
        }
        match timeout(deadline, self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => tracing::warn!(%panic, "{name} did not stop cleanly"),
            Err(_) => tracing::warn!("{name} did not stop within {deadline:?}"),
        }
    }
}

impl Stack {
    async fn start(args: &DevArgs) -> Result<Self, DevError> {
        let listen = args.listen.unwrap_or(DEFAULT_LISTEN);
        if !listen.ip().is_loopback() {
            return Err(DevError::NotLoopback(listen));
        }
        let program = match &args.nats_server {
            Some(program) if nats::is_program(program) => program.clone(),
            Some(program) => return Err(DevError::NotAProgram(program.clone())),
            None => nats::find("nats-server").ok_or(DevError::NoNats)?,
        };
        // Checked before anything starts: the likeliest reason is another `slipway dev`.
        check_free(listen, args.listen.is_some())?;
        let nats_listen = SocketAddr::from((Ipv4Addr::LOCALHOST, args.nats_port));
        check_free(nats_listen, true)?;
        let data_dir = args
            .data_dir
            .clone()
            .or_else(|| Some(directories::user_data()?.join("dev")))
            .ok_or(DevError::NoHome)?;
        let data = DataDir::open(data_dir).await?;
        let nats = NatsServer::start(program, &data, args.nats_port).await?;

        let store = StoreConfig { store: data.join("artifacts").display().to_string().into() };
        let nats_config = NatsConfig { nats_url: nats.url().into(), ..NatsConfig::default() };
        let dispatcher = slipway_dispatcher::Config {
            listen,
            data_dir: data.join("dispatcher"),
            environments: args.environments.clone(),
            limits: args.limits.clone(),
            retention: args.retention.clone(),
            store: store.clone(),
            nats: nats_config.clone(),
            ..Default::default()
        };
        let failed = |source: PartError| DevError::Dispatcher {
            what: "does not start",
            source: Some(source),
        };
        let dispatcher = slipway_dispatcher::Dispatcher::start(dispatcher)
            .await
            .map_err(|error| failed(error.into()))?;
        let address = dispatcher.local_addr();

        let worker = slipway_worker::Config {
            slots: args.slots,
            drain_grace_s: DRAIN_GRACE_S,
            store,
            cache: CacheConfig { cache_dir: data.join("cache"), cache_bytes: args.cache_bytes },
            registries: local::registries(&args.registries),
            nats: nats_config,
            ..Default::default()
        };
        let failed =
            |source: PartError| DevError::Worker { what: "does not start", source: Some(source) };
        let worker =
            slipway_worker::Worker::start(worker).await.map_err(|error| failed(error.into()))?;

        let dispatcher = Part::start(|stop| dispatcher.run(stop));
        let worker = Part::start(|stop| worker.run(stop));
        ready::wait(address).await?;
        Ok(Self { address, dispatcher, worker, nats, data })
    }

    /// Returns when a part has ended by itself.
    async fn ended_by_itself(&mut self) -> DevError {
        const WHAT: &str = "ended by itself";
        // Only a drain ends a healthy worker from outside.
        const WORKER: &str = "ended by itself: was it drained?";
        tokio::select! {
            error = self.nats.ended_by_itself() => error,
            source = self.dispatcher.ended() => DevError::Dispatcher { what: WHAT, source },
            source = self.worker.ended() => DevError::Worker { what: WORKER, source },
        }
    }

    /// Stops the parts in the order in which they need each other. The worker gives back what it
    /// holds while the queue is there and clients are still connected.
    async fn stop(self, lost: bool) {
        let at_most = |deadline: Duration| if lost { ORPHANED_STOP_DEADLINE } else { deadline };
        self.worker.stop(at_most(WORKER_STOP_DEADLINE), "the worker").await;
        self.dispatcher.stop(at_most(DISPATCHER_STOP_DEADLINE), "the dispatcher").await;
        self.nats.stop().await;
        drop(self.data);
    }
}

/// Returns an error if the address is taken. Another process may still take it after this check,
/// which exists for the better message.
fn check_free(address: SocketAddr, chosen: bool) -> Result<(), DevError> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(source) if source.kind() == std::io::ErrorKind::AddrInUse => {
            let hint = if chosen {
                "choose another port, or 0 for a free one"
            } else {
                "is slipway running already? Stop it, or choose another port with --listen \
                127.0.0.1:0"
            };
            Err(DevError::Taken { address, hint })
        }
        Err(source) => Err(DevError::Listen { address, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_taken_is_told_with_what_to_do() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let error = check_free(address, false).expect_err("it is taken");
        assert!(error.to_string().contains("is taken: is slipway running already?"), "{error}");
        assert_eq!(error.exit(), Exit::Usage);
        drop(listener);
        check_free("127.0.0.1:0".parse().expect("an address"), true).expect("one is free");
    }
}
