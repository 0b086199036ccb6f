// SPDX-License-Identifier: Apache-2.0

//! The commands: the requests that each sends, and what it prints.

pub(crate) mod about;
pub(crate) mod batch;
mod build;
mod cancel;
mod dead;
mod events;
mod log;
mod several;
mod show;
mod wait;
mod workers;

use slipway_fault::chain;
use slipway_proto::BuildId;
use slipway_proto::api::BuildView;

use slipway_client::{Client, ClientError, ClientOptions};
use slipway_service::Exit;
use slipway_service::signals::Signals;

use crate::args::{BuildArgs, BuildName, Command, GlobalArgs};
use crate::exit::Error;
use crate::output::Output;
use crate::problem::problem;
use crate::{dev, local};

pub use about::about;
pub use batch::{BatchError, LineError};

/// Log lines of `slipway dev`: the parts that run inside this process.
const DEV_LOG: &str = "warn,slipway=info,slipway_dispatcher=info,slipway_worker=info,\
                       slipway_queue=info,slipway_artifact=info";

/// Log lines of a build without a server.
const LOCAL_LOG: &str = "warn";

/// Runs a command and returns how the process ends. Errors are written to stderr.
pub async fn run(command: Command, global: GlobalArgs) -> Exit {
    let mut output = Output::new(global.output);
    if matches!(&command, Command::Build(args) if args.writes_to_stdout()) {
        output = output.with_results_on_stderr();
    }
    match Box::pin(run_command(command, global, &output)).await {
        Ok(_) if output.has_failed() => Exit::Failed,
        Ok(exit) => exit,
        Err(error) => {
            // Of several things, the results are there already.
            if output.is_json() && !output.is_used() {
                output.document(&problem(&error));
            }
            output.note(&format!("error: {}", chain(&error)));
            error.exit()
        }
    }
}

/// Returns the id of the build that somebody named.
async fn id_of(client: &Client, name: &BuildName) -> Result<BuildId, ClientError> {
    match name {
        BuildName::Whole(id) => Ok(*id),
        BuildName::Beginning(text) => client.find_build(text).await,
    }
}

async fn run_command(command: Command, global: GlobalArgs, output: &Output) -> Result<Exit, Error> {
    let now = slipway_proto::Timestamp::now;
    match command {
        Command::Dev(args) => {
            args.telemetry.start(DEV_LOG);
            Ok(dev::run(*args, output).await?)
        }
        Command::Build(args) => build_command(*args, global, output).await,
        Command::Submit(args) => {
            let client = client(global)?;
            let build = Box::pin(build::submit(
                &client,
                (&args.file, &args.further),
                &args.request,
                output,
            ))
            .await?;
            show::accepted(output, &build);
            Ok(Exit::Ok)
        }
        Command::Batch { file } => Ok(batch::run(&client(global)?, &file, output).await?),
        Command::Get { id } => {
            let client = client(global)?;
            let build = client.build(id_of(&client, &id).await?).await?;
            show::document(output, &build, || crate::render::build_details(&build, now()));
            Ok(Exit::Ok)
        }
        Command::List(args) => Ok(show::list(&client(global)?, &args, output).await?),
        Command::Logs { id, follow } => {
            let client = client(global)?;
            let id = id_of(&client, &id).await?;
            match follow {
                false => Ok(log::print(&client, id, output).await?),
                true => Ok(Box::pin(wait::follow_log(&client, id, output)).await?),
            }
        }
        Command::Events(args) => Ok(events::print(&client(global)?, &args, output).await?),
        Command::Cancel(args) => Ok(cancel::run(&client(global)?, &args, output).await?),
        Command::Retry(args) => {
            let client = client(global)?;
            let build = build::retry(&client, &args, output).await?;
            if args.follow {
                return outcome(&client, build, wait::Watch::Log, output).await;
            }
            show::accepted(output, &build);
            Ok(Exit::Ok)
        }
        Command::Dead(command) => Ok(dead::run(&client(global)?, &command, output).await?),
        Command::Workers { command } => {
            Ok(workers::run(&client(global)?, command.as_ref(), output).await?)
        }
        Command::Queue => {
            let queue = client(global)?.queue().await?;
            show::document(output, &queue, || crate::render::queue(&queue));
            Ok(Exit::Ok)
        }
        Command::Reconcile => {
            let repairs = client(global)?.reconcile().await?;
            show::document(output, &repairs, || crate::render::repairs(&repairs));
            Ok(Exit::Ok)
        }
        Command::Gc { dry_run } => {
            let collection = client(global)?.collect(dry_run).await?;
            show::document(output, &collection, || crate::render::collection(&collection));
            Ok(Exit::Ok)
        }
        Command::Completion { .. } | Command::Man { .. } | Command::Version => {
            unreachable!("main answers these without a server")
        }
        Command::Environments => {
            let environments = client(global)?.environments().await?;
            show::document(output, &environments, || crate::render::environments(&environments));
            Ok(Exit::Ok)
        }
    }
}

async fn build_command(
    args: BuildArgs,
    global: GlobalArgs,
    output: &Output,
) -> Result<Exit, Error> {
    if !args.local && args.to.is_none() {
        let client = client(global)?;
        let accepted =
            Box::pin(build::submit(&client, (&args.file, &args.further), &args.request, output))
                .await?;
        let watch = if args.follow { wait::Watch::Log } else { wait::Watch::Stages };
        return outcome(&client, accepted, watch, output).await;
    }
    args.local_options.telemetry.start(LOCAL_LOG);
    // Signals are handled so that an interrupted build removes what it has begun to write.
    let mut signals = Signals::listen();
    let build = tokio::select! {
        build = Box::pin(local::build(&args, &global.project, output)) => build?,
        () = signals.next() => return Ok(Exit::Interrupted),
    };
    let written = args.to.map(|target| target.to_string());
    show::document(output, &build, || crate::render::outcome(&build, written.as_deref()));
    Ok(show::exit_of(&build))
}

/// Waits for the outcome of a build and shows it.
async fn outcome(
    client: &Client,
    accepted: BuildView,
    watch: wait::Watch,
    output: &Output,
) -> Result<Exit, Error> {
    match Box::pin(wait::wait(client, accepted, watch, output)).await? {
        wait::Waited::Finished(build) => {
            show::document(output, &build, || crate::render::outcome(&build, None));
            Ok(show::exit_of(&build))
        }
        wait::Waited::Signalled => Ok(Exit::Interrupted),
    }
}

fn client(global: GlobalArgs) -> Result<Client, ClientError> {
    Client::new(ClientOptions {
        server: global.server,
        project: global.project,
        token: global.token,
    })
}
