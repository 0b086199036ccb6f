# shellcheck shell=bash
#
# The images that the demonstration and the tests use, for ../base-images.sh: stand-ins made of
# Debian's own packages, Java 17 and Tomcat 10.1 among them.

readonly JAVA_STAND_IN=openjdk-17
readonly TOMCAT_STAND_IN='openjdk-17 tomcat-10.1'

readonly STAND_INS=(
  docker.io/library/eclipse-temurin:17-jre
  docker.io/library/tomcat:10.1-jre17-temurin
  gcr.io/distroless/static-debian12:nonroot
  gcr.io/distroless/cc-debian12:nonroot
  docker.io/kubesphere/java-8-runtime:v2.1.0
  docker.io/kubesphere/java-11-runtime:v2.1.0
  docker.io/kubesphere/tomcat85-java8-runtime:v2.1.0
  docker.io/kubesphere/tomcat85-java11-runtime:v2.1.0
  docker.io/kubesphere/s2i-binary:v2.1.0
)

# --- overlays: what an original has on top of the root file system -----------------------------

# tomcat_home DIRECTORY: the layout of Apache Tomcat's own archive around Debian's files.
tomcat_home() {
  local home=$work/$1 file
  mkdir -p "$home"/{bin,webapps,conf/Catalina/localhost,logs,temp,work}
  ln -s /usr/share/tomcat10/lib "$home/lib"
  for file in bootstrap.jar catalina.sh setclasspath.sh tomcat-juli.jar version.sh; do
    ln -s "/usr/share/tomcat10/bin/$file" "$home/bin/$file"
  done
  for file in catalina.properties context.xml logging.properties web.xml; do
    ln -s "/usr/share/tomcat10/etc/$file" "$home/conf/$file"
  done
  # No shutdown port: a container is stopped by a signal. The port can be set by a system property,
  # for a container that shares its host's network.
  cat >"$home/conf/server.xml" <<'XML'
<?xml version="1.0" encoding="UTF-8"?>
<Server port="-1">
  <Service name="Catalina">
    <Connector port="${port.http:-8080}" protocol="HTTP/1.1"/>
    <Engine name="Catalina" defaultHost="localhost">
      <Host name="localhost" appBase="webapps" unpackWARs="true" autoDeploy="false"/>
    </Engine>
  </Service>
</Server>
XML
  # As in the public image: any user can run it.
  chmod 0777 "$home"/{logs,temp,work}
}

overlay_tomcat() {
  tomcat_home tomcat/usr/local/tomcat
  pack tomcat 'stand-in: layout of /usr/local/tomcat'
}

overlay_kubesphere_java() {
  local root=$work/kubesphere-java
  mkdir -p "$root"/{deployments,opt/run-java/deployments,usr/local/s2i}
  cat >"$root/opt/run-java/run-java.sh" <<'SH'
#!/bin/sh
# Stand-in: runs the one JAR (or JAVA_APP_JAR, or JAVA_MAIN_CLASS) of the deployments directory.
set -eu
directory=${JAVA_APP_DIR:-/opt/run-java/deployments}
cd "$directory"
# JAVA_OPTIONS holds several words.
# shellcheck disable=SC2086
if [ -n "${JAVA_MAIN_CLASS:-}" ]; then
  exec java ${JAVA_OPTIONS:-} -cp "${JAVA_CLASSPATH:-.:*}" "$JAVA_MAIN_CLASS" "$@"
fi
jar=${JAVA_APP_JAR:-}
if [ -z "$jar" ]; then
  for file in *.jar; do
    [ -e "$file" ] || { echo "no JAR in $directory" >&2; exit 1; }
    [ -z "$jar" ] || { echo "more than one JAR in $directory; set JAVA_APP_JAR" >&2; exit 1; }
    jar=$file
  done
fi
case $jar in /*) ;; *) jar=$directory/$jar ;; esac
# shellcheck disable=SC2086
exec java ${JAVA_OPTIONS:-} -cp . -jar "$jar" "$@"
SH
  cat >"$root/usr/local/s2i/run" <<'SH'
#!/bin/sh
# shellcheck disable=SC2086
exec /opt/run-java/run-java.sh ${JAVA_ARGS:-}
SH
  chmod 0755 "$root"/{opt/run-java/run-java.sh,usr/local/s2i/run}
  pack kubesphere-java 'stand-in: /opt/run-java and /usr/local/s2i'
}

overlay_kubesphere_tomcat() {
  local root=$work/kubesphere-tomcat
  tomcat_home kubesphere-tomcat/opt/apache-tomcat-8.5.32
  ln -s /opt/apache-tomcat-8.5.32 "$root/opt/tomcat"
  mkdir -p "$root"/{deployments,usr/local/s2i}
  cat >"$root/usr/local/s2i/run" <<'SH'
#!/bin/sh
# Stand-in: serves every WAR of the deployments directory at its own name.
for war in "${DEPLOY_DIR:-/deployments}"/*.war; do
  [ ! -e "$war" ] || ln -sf "$war" /opt/tomcat/webapps/
done
export CATALINA_OPTS="${CATALINA_OPTS:-} ${JAVA_OPTIONS:-}"
exec /opt/tomcat/bin/catalina.sh run
SH
  chmod 0755 "$root/usr/local/s2i/run"
  pack kubesphere-tomcat 'stand-in: /opt/tomcat and /usr/local/s2i'
}

overlay_kubesphere_binary() {
  local root=$work/kubesphere-binary
  mkdir -p "$root"/{opt/app-root/src/bin,opt/app-root/bin,usr/libexec/s2i}
  cat >"$root/usr/libexec/s2i/run" <<'SH'
#!/bin/sh
# Stand-in: runs the binary, made executable first if it is not.
binary=/opt/app-root/src/bin/binary
[ -x "$binary" ] || chmod +x "$binary"
# shellcheck disable=SC2086
exec "$binary" ${ARGS:-}
SH
  chmod 0755 "$root/usr/libexec/s2i/run"
  pack kubesphere-binary 'stand-in: /opt/app-root and /usr/libexec/s2i' 1001:0:opt/app-root
}

# The files of the distroless images are the same Debian packages' files.
overlay_distroless() {
  local static=$work/distroless-static cc=$work/distroless-cc
  mkdir -p "$work/packages" "$static"/{dev,etc,home/nonroot,proc,root,run,sys,tmp,var/tmp} \
    "$static"/usr/{bin,lib,lib64,sbin}
  mkdir -p "$cc"
  tar --extract --gzip --file "$rootfs" --directory "$work/packages" --no-same-owner \
    --wildcards ./etc/ssl/certs/ca-certificates.crt ./usr/share/zoneinfo ./usr/lib/os-release \
    './var/lib/dpkg/info/*.list' './usr/lib/*-linux-gnu*/*.so*' './usr/lib*/ld-linux*'

  (cd "$work/packages" && cp -a --parents etc/ssl/certs usr/share/zoneinfo usr/lib/os-release "$static")
  ln -s ../usr/lib/os-release "$static/etc/os-release"
  ln -s usr/bin usr/lib usr/lib64 usr/sbin "$static"
  printf '%s\n' root:x:0:0:root:/root:/sbin/nologin \
    nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin \
    nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin >"$static/etc/passwd"
  printf '%s\n' root:x:0: nobody:x:65534: tty:x:5: staff:x:50: nonroot:x:65532: >"$static/etc/group"
  echo 'hosts: files dns' >"$static/etc/nsswitch.conf"
  chmod 1777 "$static"/{tmp,var/tmp}
  chmod 0700 "$static"/{root,home/nonroot}
  pack distroless-static 'stand-in: passwd, ca-certificates, tzdata' 65532:65532:home/nonroot

  # The lists know libraries by /lib, the root file system by /usr/lib; plug-ins such as
  # libc6's character sets were not extracted and so are left out.
  (
    cd "$work/packages"
    cat var/lib/dpkg/info/{libc6,libgcc-s1,libssl3,libstdc++6}:"$architecture".list |
      sed -n 's|^/\(usr/\)\{0,1\}\(lib[^/]*/.*\)|usr/\2|p' | sort -u |
      while read -r file; do
        [ -d "$file" ] || [ ! -e "$file" ] || printf '%s\0' "$file"
      done | xargs -0 cp -a --parents -t "$cc"
  )
  pack distroless-cc 'stand-in: libc6, libgcc-s1, libssl3, libstdc++6'
}

# --- all of it -----------------------------------------------------------------------------------

make_stand_ins() {
  local tag
  add_java_rootfs
  overlay_tomcat
  overlay_distroless
  overlay_kubesphere_java
  overlay_kubesphere_tomcat
  overlay_kubesphere_binary

  add_image docker.io/library/eclipse-temurin:17-jre java-rootfs <<JSON
{"Env": ["PATH=$JAVA_HOME_IN_IMAGE/bin:$SYSTEM_PATH", "JAVA_HOME=$JAVA_HOME_IN_IMAGE",
         "LANG=C.UTF-8", "LC_ALL=C.UTF-8"],
 "Labels": {"dev.slipway.stand-in": "$JAVA_STAND_IN"}}
JSON
  add_image docker.io/library/tomcat:10.1-jre17-temurin java-rootfs tomcat <<JSON
{"Env": ["PATH=/usr/local/tomcat/bin:$JAVA_HOME_IN_IMAGE/bin:$SYSTEM_PATH",
         "JAVA_HOME=$JAVA_HOME_IN_IMAGE", "LANG=C.UTF-8", "LC_ALL=C.UTF-8",
         "CATALINA_HOME=/usr/local/tomcat", "TOMCAT_MAJOR=10"],
 "WorkingDir": "/usr/local/tomcat", "ExposedPorts": {"8080/tcp": {}}, "Cmd": ["catalina.sh", "run"],
 "Labels": {"dev.slipway.stand-in": "$TOMCAT_STAND_IN"}}
JSON

  for tag in static cc; do
    local layers=(distroless-static)
    [ "$tag" = static ] || layers+=(distroless-cc)
    add_image "gcr.io/distroless/$tag-debian12:nonroot" "${layers[@]}" <<JSON
{"Env": ["PATH=$SYSTEM_PATH", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
 "User": "65532", "WorkingDir": "/home/nonroot",
 "Labels": {"dev.slipway.stand-in": "debian-12 $tag"}}
JSON
  done

  local s2i_labels='"io.openshift.s2i.scripts-url": "image:///usr/local/s2i",
    "io.kubesphere.s2i.scripts-url": "image:///usr/local/s2i",
    "io.openshift.s2i.destination": "/tmp", "io.kubespehre.s2i.destination": "/tmp",
    "io.openshift.s2i.assemble-input-files": "/deployments",
    "com.yunify.deployments-dir": "/deployments", "org.jboss.deployments-dir": "/deployments"'
  for tag in 8 11; do
    add_image "docker.io/kubesphere/java-$tag-runtime:v2.1.0" java-rootfs kubesphere-java <<JSON
{"Env": ["PATH=$JAVA_HOME_IN_IMAGE/bin:$SYSTEM_PATH:/usr/local/s2i",
         "JAVA_HOME=$JAVA_HOME_IN_IMAGE", "LANG=C.UTF-8"],
 "WorkingDir": "/usr/local/s2i", "ExposedPorts": {"8080/tcp": {}}, "Cmd": ["/usr/local/s2i/run"],
 "Labels": {"dev.slipway.stand-in": "$JAVA_STAND_IN", $s2i_labels}}
JSON
    add_image "docker.io/kubesphere/tomcat85-java$tag-runtime:v2.1.0" java-rootfs kubesphere-tomcat <<JSON
{"Env": ["PATH=$JAVA_HOME_IN_IMAGE/bin:$SYSTEM_PATH:/opt/tomcat/bin",
         "JAVA_HOME=$JAVA_HOME_IN_IMAGE", "LANG=C.UTF-8",
         "TOMCAT_VERSION=8.5.32", "CATALINA_HOME=/opt/tomcat"],
 "User": "root", "ExposedPorts": {"8080/tcp": {}}, "Cmd": ["/usr/local/s2i/run"],
 "Volumes": {"/opt/tomcat/logs": {}, "/opt/tomcat/temp": {}, "/opt/tomcat/work": {},
             "/tmp/hsperfdata_root": {}},
 "Labels": {"dev.slipway.stand-in": "$TOMCAT_STAND_IN", $s2i_labels}}
JSON
  done
  add_image docker.io/kubesphere/s2i-binary:v2.1.0 java-rootfs kubesphere-binary <<JSON
{"Env": ["PATH=/opt/app-root/src/bin:/opt/app-root/bin:$SYSTEM_PATH",
         "STI_SCRIPTS_PATH=/usr/libexec/s2i", "APP_ROOT=/opt/app-root", "HOME=/opt/app-root/src"],
 "User": "1001", "WorkingDir": "/opt/app-root/src", "Cmd": ["/usr/libexec/s2i/run"],
 "Labels": {"dev.slipway.stand-in": "debian-12", "io.openshift.s2i.destination": "/tmp",
            "io.openshift.s2i.scripts-url": "image:///usr/libexec/s2i",
            "io.kubesphere.s2i.scripts-url": "image:///usr/libexec/s2i"}}
JSON
}
