//! The built-in specs of servers: each starts by the spec's own command in a jail that has nothing but its
//! loopback, answers a client in the same jail, and stops when it is told to; with both filters.

mod jail;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use jail::Jail;
use jail::checks::{holds, need_program};
use jailmk::spec::{self, builtin};
use nix::sys::signal::Signal;

/// Words of the scripts, beside those of [`jail::checks`].
const WORDS: &str = r#"
# until_works COMMAND...: it succeeds, sooner or later.
until_works() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { echo "FAILED never happened: $*"; break; }
        sleep 0.1
    done
}
# stops NAME SIGNAL: the server, whose process is $server, ends with 0.
stops() {
    kill -"$2" $server
    wait $server || echo "FAILED $1: status $?: $(cat /tmp/log)"
}
"#;

/// The words of the command of a built-in spec, as a shell takes them.
fn command(name: &str) -> String {
    let text = builtin::text(name).expect("a built-in spec");
    let command = spec::parse(text, "server.toml").expect("a built-in spec parses").process.command;
    assert!(command.iter().all(|word| !word.contains(['\'', ' '])), "{command:?}");
    command.join(" ")
}

/// Runs `script` in a jail of the server and a client, once with each filter. `$server` is the process of
/// the server, which is started first.
fn serves(name: &str, sections: &str, script: &str) {
    for filter in ["default", "strict"] {
        let jail = Jail::spec(format!(
            "include = [\"{name}\", \"shell\", \"tls\"]\n{sections}\n\
             [hardening]\nlandlock = \"required\"\nseccomp = \"{filter}\"\n"
        ));
        let started = format!("{} >/tmp/log 2>&1 & server=$!", command(name));
        holds(&jail, "bash", &format!("{WORDS}\n{started}\n{script}"));
    }
}

#[test]
fn nginx_serves_files_and_logs_who_asked() {
    if !need_program("/usr/sbin/nginx") {
        return;
    }
    let sections = r#"
[rootfs]
programs = ["curl"]
files = [
    { content = "<p>hello</p>\n", to = "/srv/www/index.html" },
    { content = "server { listen 127.0.0.1:8081; location / { proxy_pass http://127.0.0.1:8080; } }\n", to = "/etc/nginx/conf.d/proxy.conf" },
]
"#;
    let script = r#"
        until_works curl -sf http://127.0.0.1:8080/
        # Not while the server starts, for it takes the ports too.
        works "test of the configuration" nginx -e stderr -t
        says "a page" "<p>hello</p>" curl -sS http://127.0.0.1:8080/
        says "its type" "text/html; charset=utf-8" curl -sS -o /dev/null -w '%{content_type}' http://127.0.0.1:8080/
        says "no page" 404 curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/none
        says "through a proxy" "<p>hello</p>" curl -sS http://127.0.0.1:8081/
        says "log" "GET /none" grep -o 'GET /none' /var/log/nginx/access.log
        works "reload" kill -HUP $server
        says "after it" "<p>hello</p>" curl -sS --retry 9 --retry-connrefused http://127.0.0.1:8080/
        stops "end" QUIT
        works "error log" grep -q 'exiting' /tmp/log
        case "$(cat /tmp/log)" in *"[warn]"*|*"[alert]"*|*"[emerg]"*) cat /tmp/log;; esac
    "#;
    serves("nginx", sections, script);
}

#[test]
fn redis_keeps_what_it_is_told() {
    if !need_program("/usr/bin/redis-server") || !need_program("/usr/bin/redis-cli") {
        return;
    }
    let script = r#"
        until_works redis-cli ping
        says "by TCP" OK redis-cli set name value
        says "by its socket" value redis-cli -s /run/redis/redis.sock get name
        says "a script" 3 redis-cli eval 'return 1 + 2' 0
        says "a snapshot by a process of its own" "Background saving started" redis-cli bgsave
        until_works sh -c 'redis-cli info persistence | grep rdb_last_bgsave_status:ok && [ -e /var/lib/redis/dump.rdb ]'
        stops "end" TERM
        works "what it appended" sh -c 'redis-check-aof /var/lib/redis/appendonlydir/*.manifest'

        redis-server /etc/redis/redis.conf >/tmp/log 2>&1 & server=$!
        until_works redis-cli ping
        says "after a new start" value redis-cli get name
        stops "second end" TERM
    "#;
    serves("redis", "", script);
}

/// As the comment in the spec says: data and socket on the host.
#[test]
fn redis_serves_the_host_by_mounts_in_place_of_its_memory() {
    if !need_program("/usr/bin/redis-server") {
        return;
    }
    let jail = on_the_host("redis", "/var/lib/redis", "/run/redis");
    let (data, socket) = (jail.place.directory("data"), jail.place.directory("socket").join("redis.sock"));
    let mut running = jail.begin(&[]);
    running.until("redis listens", || UnixStream::connect(&socket).is_ok());
    let ask = |words: &str| {
        let mut stream = UnixStream::connect(&socket).expect("connect to redis");
        stream.write_all(format!("{words}\r\nquit\r\n").as_bytes()).expect("write to redis");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read from redis");
        answer
    };
    assert_eq!(ask("set name value"), "+OK\r\n+OK\r\n");
    assert_eq!(ask("get name"), "$5\r\nvalue\r\n+OK\r\n");
    running.signal(Signal::SIGTERM);
    running.end().succeeded();
    assert!(data.join("dump.rdb").is_file());
}

#[test]
fn postgres_makes_a_cluster_and_answers_queries() {
    if !need_program("/usr/lib/postgresql") {
        return;
    }
    let script = r#"
        psql() { with-postgres psql -XAtq -v ON_ERROR_STOP=1 "$@"; }
        until_works psql -c 'select 1'
        says "its user" agent psql -c 'select current_user'
        says "table" 3 psql -c 'create table t (a int primary key, b text); insert into t values (1, $$ä$$), (2, null); select sum(a) from t'
        says "by TCP, with a password" 2 bash -c "$(declare -f psql); psql -c \"alter role agent password 'secret'\"; PGPASSWORD=secret psql -h 127.0.0.1 -c 'select count(*) from t'"
        case "$(psql -w -h 127.0.0.1 -c 'select 1' 2>&1)" in *"no password"*) ;; *) echo "FAILED: it lets in without one";; esac
        says "encoding" UTF8 psql -c 'show server_encoding'
        says "time zone" "2020-07-01 02:00:00+02" psql -c "set timezone to 'Europe/Berlin'; select timestamptz '2020-07-01 00:00Z'"
        says "text search" t psql -c "select to_tsvector('english', 'running') @@ 'run'"
        says "procedure" 7 psql -c 'create function f() returns int language plpgsql as $$ begin return 7; end $$; select f()'
        says "workers of one query" 100000 psql -c "set min_parallel_table_scan_size = 0; set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set max_parallel_workers_per_gather = 2; create table big as select generate_series(1, 100000) i; analyze big; select count(*) from big"
        says "copy" 1,ä psql -c "copy (select * from t where a = 1) to stdout with csv"
        works "dump" sh -c 'with-postgres pg_dump >/tmp/dump && grep -q "CREATE TABLE public.t" /tmp/dump'
        stops "end" INT
        case "$(cat /tmp/log)" in *"database system is shut down"*) ;; *) cat /tmp/log;; esac
        case "$(cat /tmp/log)" in *WARNING*|*ERROR*|*"not found"*) cat /tmp/log;; esac
    "#;
    serves("postgres", "", script);
}

#[test]
fn postgres_is_jailed_with_its_data_on_the_host() {
    if !need_program("/usr/lib/postgresql") {
        return;
    }
    let jail = on_the_host("postgres", "/var/lib/postgresql", "/run/postgresql");
    let (data, socket) = (jail.place.directory("data"), jail.place.directory("socket"));
    // The second time there is a cluster.
    for _ in 0..2 {
        let mut running = jail.begin(&[]);
        running.until("postgres listens", || UnixStream::connect(socket.join(".s.PGSQL.5432")).is_ok());
        // A second jail with the same data would write to it as well.
        let second = jail.begin(&[]).end().ended(1);
        assert!(second.stderr.contains("another jail uses the cluster"), "{second}");
        running.signal(Signal::SIGINT);
        let ran = running.end().succeeded();
        assert!(ran.stderr.contains("database system is shut down"), "{ran}");
        assert!(data.join("data/PG_VERSION").is_file());
    }
}

/// A server whose data and socket are in `data` and `socket` of the jail's place.
fn on_the_host(server: &str, data: &str, socket: &str) -> Jail {
    Jail::spec(format!(
        "include = [\"{server}\"]\n\
         [[mount]]\nfrom = \"PLACE/data\"\nto = \"{data}\"\nmode = \"read-write\"\nexec = false\n\
         [[mount]]\nfrom = \"PLACE/socket\"\nto = \"{socket}\"\nmode = \"read-write\"\n"
    ))
}

/// A second jail of a server that listens already, with the same data: its process ids are the same.
fn a_second_jail_is_refused(jail: &Jail, socket: &Path, words: &str) {
    let mut first = jail.begin(&[]);
    first.until("the server listens", || UnixStream::connect(socket).is_ok());
    let second = jail.run(&[]).ended(1);
    assert!(second.stderr.contains(words), "{second}");
    assert!(UnixStream::connect(socket).is_ok(), "the first still listens");
    first.signal(Signal::SIGINT);
    first.end().succeeded();
    // The lock has gone with it.
    let mut again = jail.begin(&[]);
    again.until("the server listens", || UnixStream::connect(socket).is_ok());
    again.signal(Signal::SIGINT);
    again.end().succeeded();
}

#[test]
fn a_second_jail_with_the_data_of_a_postgres_that_runs_is_refused() {
    if !need_program("/usr/lib/postgresql") {
        return;
    }
    let jail = on_the_host("postgres", "/var/lib/postgresql", "/run/postgresql");
    jail.place.directory("data");
    let socket = jail.place.directory("socket").join(".s.PGSQL.5432");
    a_second_jail_is_refused(&jail, &socket, "another jail uses the cluster in /var/lib/postgresql/data");
}

#[test]
fn a_second_jail_with_the_data_of_a_redis_that_runs_is_refused() {
    if !need_program("/usr/bin/redis-server") {
        return;
    }
    let jail = on_the_host("redis", "/var/lib/redis", "/run/redis");
    jail.place.directory("data");
    let socket = jail.place.directory("socket").join("redis.sock");
    a_second_jail_is_refused(&jail, &socket, "cannot lock /var/lib/redis: another jail");
}
