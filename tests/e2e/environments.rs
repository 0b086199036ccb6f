// SPDX-License-Identifier: Apache-2.0

//! The five environments of KubeSphere's Binary-to-Image, with the paths, commands and users of its
//! images.

use serde_json::{Value, json};
use slipway_proto::environment::Catalogue;
use slipway_proto::request::Base;
use slipway_tests::process::{command, repository};
use slipway_tests::{Stack, artifacts};

struct Expected {
    environment: &'static str,
    runtime: &'static str,
    file: &'static str,
    bytes: Vec<u8>,
    listed: &'static str,
    command: &'static str,
    working_dir: Value,
    user: Value,
    ports: Value,
}

fn jar(environment: &'static str, runtime: &'static str) -> Expected {
    let bytes = artifacts::zip(&[
        artifacts::entry("META-INF/MANIFEST.MF", "Main-Class: Main\n"),
        artifacts::entry("Main.class", artifacts::class(8)),
    ]);
    Expected {
        environment,
        runtime,
        file: "app.jar",
        bytes,
        listed: "-rw-r--r-- 0/0 {size} 1970-01-01 00:00:01 opt/run-java/deployments/app.jar",
        command: "/usr/local/s2i/run",
        working_dir: json!("/usr/local/s2i"),
        user: Value::Null,
        ports: json!({"8080/tcp": {}}),
    }
}

fn war(environment: &'static str, runtime: &'static str) -> Expected {
    Expected {
        environment,
        runtime,
        file: "b2i-war.war",
        bytes: artifacts::old_war(),
        listed: "-rw-r--r-- 0/0 {size} 1970-01-01 00:00:01 deployments/b2i-war.war",
        command: "/usr/local/s2i/run",
        working_dir: Value::Null,
        user: json!("root"),
        ports: json!({"8080/tcp": {}}),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubesphere_environments_make_the_images_they_made() {
    let stack = Stack::with_worker().await;
    for expected in [
        jar("kubesphere/java-8-centos7:v2.1.0", "java-8-runtime"),
        jar("java-11-centos7", "java-11-runtime"),
        war("kubesphere/tomcat85-java8-centos7:v2.1.0", "tomcat85-java8-runtime"),
        war("tomcat85-java11-centos7", "tomcat85-java11-runtime"),
        Expected {
            environment: "s2i-binary:v2.1.0",
            runtime: "s2i-binary",
            file: "tool",
            bytes: artifacts::elf(62, ""),
            listed: "-rwxr-xr-x 1001/0 {size} 1970-01-01 00:00:01 opt/app-root/src/bin/binary",
            command: "/usr/libexec/s2i/run",
            working_dir: json!("/opt/app-root/src"),
            user: json!("1001"),
            ports: Value::Null,
        },
    ] {
        let base = format!("docker.io/kubesphere/{}", expected.runtime);
        let base_config = json!({
            "Volumes": {"/data": {}}, "Env": ["HOME=/x"], "Labels": {"io.kubesphere.tags": "t"}
        });
        stack.registry.put_base(&base, "v2.1.0", base_config).await;
        let size = expected.bytes.len();
        let image = format!("ks/{}:1", expected.runtime);
        let more = json!({"environment": expected.environment});
        let build = stack.run(expected.file, expected.bytes, &image, more).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        let repository = format!("ks/{}", expected.runtime);
        let config = stack.registry.config(&repository, "1").await;
        let config = &config["config"];
        assert_eq!(config["Entrypoint"], Value::Null, "{config}");
        assert_eq!(config["Cmd"], json!([expected.command]));
        assert_eq!(config["WorkingDir"], expected.working_dir);
        assert_eq!(config["User"], expected.user);
        assert_eq!(config["ExposedPorts"], expected.ports);
        assert_eq!(config["Volumes"], json!({"/data": {}}));
        assert_eq!(config["Env"], json!(["HOME=/x"]));
        assert_eq!(config["Labels"]["io.kubesphere.tags"], "t");
        assert_eq!(config["Labels"]["io.k8s.display-name"], stack.image(&image));
        let builder = config["Labels"]["io.openshift.s2i.build.image"].as_str().expect("a label");
        assert!(builder.starts_with("kubesphere/"), "{builder}");
        let listing = stack.registry.listing(&repository, "1", 1).await;
        let listed = expected.listed.replace("{size}", &size.to_string());
        assert_eq!(listing.last(), Some(&listed), "{listing:?}");
    }
}

/// Whoever adds an environment can run its images without any outside registry.
#[test]
fn each_base_of_the_catalogue_can_be_made_here() {
    let output = command(repository().join("dev/base-images.sh")).arg("--list").output();
    let output = output.expect("the script starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).expect("text");
    for environment in Catalogue::default().environments() {
        if let Base::Image(base) = &environment.base {
            let base = base.to_string();
            assert!(listed.lines().any(|line| line == base), "{base} is not in {listed}");
        }
    }
}
