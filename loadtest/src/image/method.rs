// SPDX-License-Identifier: Apache-2.0

//! The report's description of the method for images.

/// How images are measured, as Markdown.
pub const METHOD: &str = "\
- **Fresh bytes**: every measurement has an input of its own, drawn from seed, scenario, variant and
  round, and a repository of its own. Only Spring Boot's loader is the same everywhere. *One class
  changed* and *nothing changed* follow on the build before, into its repository and tag.
- **One shuffled run**: in each round the variants take turns in a drawn order. Before each, 768 MiB
  of memory are touched and released and the disk is synced. Then the machine has to be 90 % idle for
  250 ms. After ten seconds the measurement starts anyway and is marked as busy.
- **Floor**: one `curl -T` of the artifact into an upload that was opened before, with the digest
  known. The POST that opens it has a row of its own.
- **Slipway, queue**: dispatcher and worker (two slots) run all the time. The clock runs from sending
  the submission to the arrival of `finished` on the event stream. CPU is that of worker and
  dispatcher (their processor clocks), without nats-server and without the client. Memory is the
  worker's peak above what it held before its first build.
- **With the upload**: the same builds, each with the time of the upload of its JAR to the
  dispatcher. The client knows the digest beforehand, as curl does.
- **Slipway --local**: the whole process. Its cache holds the base image's manifest, as a worker's
  does, and the digest of a file that nobody has touched since its last build (*nothing changed*).
- **Two slots**: the builds are submitted at once, each with its own JAR into its own repository. The
  same JARs are then sent by curl to the same registry, two at a time. *Alone* are builds that have
  the slots to themselves. A build runs from the start to the finish that its events name. Before
  many builds, and before curl, the JARs are read once, and memory is released while they run, so
  that they begin where a build alone begins. A virtual machine that returns free memory to its host
  keeps some of it, here 1 GiB, and pays 150 ms for every 46 MB that are written beyond that.
- **umoci + skopeo**: `umoci insert`, `umoci config` and `skopeo copy`, on a layout that holds the base
  image already. The copy of that layout is not timed.
- **buildah**: `from`, `copy`, `config`, `commit`, `push` on overlay storage that holds the base image.
- CPU and memory of commands are what the system counts for them and their children (`getrusage`). The
  memory is that of the largest process.
- **Requests** are the lines of the registry's access log. The protocol asks for two for a blob that is
  sent, one for a layer that the registry holds, one for the base's manifest, and one for each name
  of the new manifest. **Sent** is counted by a proxy before the registry, in a round 0 whose times
  are not used. It includes headers.
- The binary of 300 MB has three rounds. In *base in another registry* each measurement has an empty
  registry, and the worker with the cold cache has just started.
- Base image: two compressed layers of 16 and 67 MB.
- *Nothing changed* is a new build of the same artifact to the same tag. umoci and buildah do all of
  their work again. umoci's layer comes out the same, buildah's does not.
- Registries, artifact store and NATS keep their data on one disk, on loopback, on one machine. Their
  processor time is not in the CPU column, and it slows every variant alike.
";
