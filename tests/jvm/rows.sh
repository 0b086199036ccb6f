# shellcheck shell=bash
#
# The rows of the table that run.sh prints: `row NAME KEY=VALUE...`.
#
#   project      below projects/ (default: the row's name)
#   artifact     what Maven makes and Slipway gets (default: target/app.jar)
#   java         the JDK that Maven runs on (default: 17)
#   maven        options of Maven
#   build        options of `slipway build`
#   environment  the environment of the image; `auto` chooses unless `build` names one
#   run          options of podman; {} is the directory where the project was built
#   path         what is asked (default: /)
#   answer       what it answers (default: hello from PROJECT)
#   note         part of what Slipway says about the artifact, in place of an image that runs
#   waiting      why the row cannot run yet: the project is built, and nothing more

# --- Spring Boot ---------------------------------------------------------------------------------

row boot-2.7-jar environment=java-8
row boot-3-jar environment=java-17
row boot-4-jar environment=java-17
# Without layers.idx, with the launcher of Boot 2, and as an executable file: a script in front.
row boot-3-no-layers project=boot-3-jar maven=-Pno-layers environment=java-17
row boot-3-classic-loader project=boot-3-jar maven=-Pclassic-loader environment=java-17
row boot-3-script project=boot-3-jar maven=-Pscript environment=java-17
row boot-3-extracted project=boot-3-jar maven=-Pextracted artifact=target/extracted \
  environment=java-17 waiting='Slipway does not build directories yet'
row boot-kotlin environment=java-17
row boot-3-add-opens environment=java-17
row boot-loader-path environment=java-17 artifact=app/target/app.jar \
  run='--volume {}/plugin/target/plugins:/home/app/plugins:ro'

row boot-2.7-war artifact=target/app.war environment=tomcat-9-java-8 path=/app/
row boot-3-war artifact=target/app.war environment=tomcat-10-java-17 path=/app/
row boot-4-war artifact=target/app.war environment=tomcat-11-java-17 path=/app/
# The same files, started by themselves: by their name, and by the environment.
row boot-3-war-named-jar project=boot-3-war artifact=target/app.war build='--filename app.jar' \
  environment=java-17
row boot-2.7-war-on-java project=boot-2.7-war artifact=target/app.war \
  build='--environment java-8' environment=java-8

# --- other frameworks ----------------------------------------------------------------------------

row quarkus-uber-jar project=quarkus artifact=target/app-runner.jar environment=java-17 \
  maven=-Dquarkus.package.jar.type=uber-jar
row quarkus-fast-jar project=quarkus artifact=target/quarkus-app environment=java-17 \
  maven=-Dquarkus.package.jar.type=fast-jar waiting='Slipway does not build directories yet'
row micronaut environment=java-17
row helidon java=25 environment=java-21 maven=-Pshaded
row helidon-directory project=helidon java=25 artifact=target/app environment=java-21 \
  maven=-Pdirectory \
  waiting='Slipway does not build directories yet'
row javalin environment=java-11
row ktor environment=java-17
row dropwizard environment=java-11 build='--arg server --arg config.yml'
row vertx environment=java-17

# --- no framework --------------------------------------------------------------------------------

row plain-shaded java=25 environment=java-21
row plain-class-path artifact=target/app/app.jar note=lib/gson-2.13.2.jar
row plain-directory project=plain-class-path artifact=target/app environment=java-17 \
  waiting='Slipway does not build directories yet'
row add-opens environment=java-17
row preview java=25 maven=-Dpreview.release=25 environment=java-25

# Each release of Java, as a user that nobody knows, with an option that is given at the start.
for release in 8 11 17 21 25; do
  row "surroundings-$release" project=surroundings java=25 environment="java-$release" \
    maven="-Dmaven.compiler.release=$release" \
    run='--user 12345:0 --env JAVA_OPTIONS=-Dgreeting=surroundings'
done

row servlet-javax artifact=target/app.war environment=tomcat-9-java-8 path=/app/hello
row servlet-jakarta artifact=target/app.war environment=tomcat-10-java-17 path=/app/hello
row servlet-jakarta-6.1 java=25 artifact=target/app.war environment=tomcat-11-java-21 path=/app/hello
row servlet-jakarta-old-descriptor artifact=target/app.war environment=tomcat-10-java-17 \
  path=/app/hello
row servlet-classes-in-library artifact=target/app.war environment=tomcat-9-java-11 path=/app/hello

# The other environments of Tomcat.
for environment in tomcat-9-java-17 tomcat-9-java-21 tomcat-9-java-25; do
  row "servlet-javax-$environment" project=servlet-javax artifact=target/app.war path=/app/hello \
    build="--environment $environment" environment="$environment"
done
for environment in tomcat-10-java-21 tomcat-10-java-25 tomcat-11-java-17 tomcat-11-java-25; do
  row "servlet-jakarta-$environment" project=servlet-jakarta artifact=target/app.war \
    path=/app/hello build="--environment $environment" environment="$environment"
done
