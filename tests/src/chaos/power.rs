// SPDX-License-Identifier: Apache-2.0

//! The machine of the NATS servers loses power. What they acknowledged must be there afterwards.
//!
//! Builds are submitted while there are no workers. Then all servers are killed at one moment, and
//! their disks keep only what had reached the medium. After the power is back, workers start, and
//! every build that was answered 202 must end with an image. Only a server that syncs before it
//! acknowledges passes; others show what is not promised.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::checker::Class;
use super::history::{History, What};
use super::plan::{Target, WORKERS};
use super::report::Report;
use super::world::{World, WorldOptions};
use super::{HISTORY, Options, begin, check, collect, finish, load, world};
use crate::disk::PowerDisk;

/// The disk of each server.
const DISK_MIB: u64 = 256;

/// Runs the case.
///
/// # Errors
///
/// When disks cannot be mounted here, or the system does not answer at the end.
///
/// # Panics
///
/// When the world cannot be started.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    anyhow::ensure!(
        PowerDisk::available(),
        "disks that lose power need root and the permission to mount: not possible here"
    );
    let directory = world::make_directory(options.keep.as_deref());
    println!("power loss: seed {}, everything in {}", options.seed, directory.display());
    let report = lose_power(options, &directory).await?;
    println!("acknowledged {}, lost {}", report.accepted(), report.count(Class::Lost));
    finish(&report, &directory, options.keep.is_some());
    Ok(report)
}

async fn lose_power(options: &Options, directory: &Path) -> anyhow::Result<Report> {
    let mut disks: Vec<PowerDisk> = (0..options.nodes)
        .map(|node| PowerDisk::mount(&directory.join(format!("disk-{node}")), DISK_MIB))
        .collect();
    let path = directory.join(HISTORY);
    let history = History::create(&path);
    let world = Arc::new(
        World::start(&WorldOptions {
            directory: directory.to_owned(),
            server: options.server.clone(),
            nodes: options.nodes,
            stores: Some(disks.iter().map(|disk| disk.path().join("data")).collect()),
            switch_off: options.switch_off.clone(),
            workers: 0,
            seed: options.seed,
        })
        .await,
    );
    begin(&history, &world, options).await?;
    let until = Instant::now() + Duration::from_secs(options.seconds);
    load::submit_all(&world, &history, options.seed, until).await;
    let mut nats = world.nats.lock().await;
    for node in 0..options.nodes {
        nats.signal(node, "STOP");
    }
    for node in 0..options.nodes {
        nats.kill(node);
    }
    println!("the power is gone");
    tokio::task::block_in_place(|| disks.iter_mut().for_each(PowerDisk::power_loss));
    for node in 0..options.nodes {
        nats.restart(node).await;
    }
    nats.ready().await;
    drop(nats);
    println!("the power is back");
    for number in 0..WORKERS {
        world.program(Target::Worker(number)).await.start(None);
    }
    history.note(What::Healed);
    collect::rest(&world, &history, collect::RUN_STALL_LIMIT).await;
    collect::collect(&world, &history).await?;
    drop(world);
    drop(disks);
    check(&path)
}
