// SPDX-License-Identifier: Apache-2.0

//! What the report says about how it was measured.

/// How images are measured, as Markdown.
pub const METHOD: &str = "\
- **Fresh bytes**: every measurement has an input of its own, drawn from seed, scenario, variant and
  round, and a repository of its own. Only Spring Boot's loader is the same everywhere. *One class
  changed* and *nothing changed* follow on the build before, into its repository and tag.
- **One shuffled run**: in each round the variants take turns in a drawn order, each after 768 MiB of
  memory were touched and let go, the disk was synced and the machine was 90 % idle for 250 ms, or
  after ten seconds, which is marked as busy.
- **Floor**: one `curl -T` of the artifact into an upload that was opened before, with the digest known;
  the POST that opens it has a row of its own.
- **Slipway, queue**: resident dispatcher and worker (two slots); from sending the submission to the
  arrival of `finished` on the event stream. The upload of the artifact has a row of its own. CPU is
  that of worker and dispatcher (their processor clocks), without nats-server and without the client;
  memory is the worker's peak above what it held before its first build.
- **Slipway --local**: the whole process. Its cache holds the base image's manifest, as a worker's does,
  and the digest of a file that nobody touched since it was built before (*nothing changed*).
- **Two slots**: as many builds as said, each with its own JAR into its own repository; and their JARs
  sent by curl to the same registry, two at a time. Before both the JARs are read once, and more
  memory is let go while they run: they begin where one alone begins. A virtual machine that gives
  free memory back to its host has some at hand, here 1 GiB, and pays 150 ms for every 46 MB that are
  written beyond it.
- **umoci + skopeo**: `umoci insert`, `umoci config` and `skopeo copy`, on a layout that holds the base
  image already; the copy of that layout is not timed.
- **buildah**: `from`, `copy`, `config`, `commit`, `push` on overlay storage that holds the base image.
- CPU and memory of commands are what the system counts for them and their children (`getrusage`): the
  memory is that of the largest process.
- **Requests** are the lines of the registry's access log. **Sent** is counted by a proxy before the
  registry in a round 0 that is in no time; it includes headers.
- The binary of 300 MB has three rounds. In *base in another registry* each
  measurement has an empty registry; the worker with the cold cache has just started.
- Base image: two compressed layers of 16 and 67 MB.
- *Nothing changed* is a new build of the same artifact to the same tag. umoci and buildah do all of their
  work again; umoci's layer comes out the same, buildah's does not.
- Registries, artifact store and NATS keep their data on one disk, on loopback, on one machine: what they
  use is not in the CPU column but slows everybody alike.
";
