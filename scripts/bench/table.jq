# Lines of JSON of scripts/bench.sh as Markdown: jq -rsf scripts/bench/table.jq bench.jsonl
def median: map(select(. != null)) | sort | if length == 0 then null else .[(length - 1) / 2 | floor] end;
def show: if . == null then "" elif . >= 1000 then round | tostring else (. * 100 | round / 100 | tostring) end;
def ms: if . == null then "" else (. / 10 | round / 100 | tostring) end;
def over($other): if . == null or $other == null or $other == 0 then "" else (. / $other * 100 | round / 100 | tostring) end;
def row: "| " + join(" | ") + " |";
def table($header; rows): ($header | row), ($header | map("---") | row), rows, "";
def part($name): map(select(.part == $name));
def of($target): map(select(.target == $target));
def operation: .mix | keys[0] | if . == "update" then "put" elif . == "read" then "get" else . end;
def latency($q): map(.latencyUs[]?[$q]) | median;

. as $all
| ($all | part("compare")) as $lines
| (if $lines == [] then empty else
    "## Puts and linearizable gets over gRPC, medians\n",
    table(["operation", "asks", "clients", "larder /s", "etcd /s", "ratio", "p50 ms", "etcd p50", "p99 ms", "etcd p99",
        "node CPU µs", "etcd CPU µs", "client CPU µs", "etcd client µs", "errors"];
        $lines | group_by([operation, .route, .clients])[] | (of("larder")) as $a | (of("etcd")) as $b
        | [(.[0] | operation, .route, (.clients | tostring)),
           ($a | map(.throughput) | median | show), ($b | map(.throughput) | median | show),
           (($a | map(.throughput) | median) | over($b | map(.throughput) | median)),
           ($a | latency("p50") | ms), ($b | latency("p50") | ms), ($a | latency("p99") | ms), ($b | latency("p99") | ms),
           ($a | map(.servers.cpuUsPerOperation) | median | show), ($b | map(.servers.cpuUsPerOperation) | median | show),
           ($a | map(.clientCpuUsPerOperation) | median | show), ($b | map(.clientCpuUsPerOperation) | median | show),
           (map(.errors[]?.count) | add // 0 | tostring)] | row),
    "## Syncs and bytes on disk for each put, all nodes, by the nodes' own counters\n",
    table(["asks", "clients", "larder log syncs", "etcd log syncs", "larder entries a sync", "etcd entries a sync",
        "larder bytes written per byte", "etcd bytes written per byte"];
        $lines | map(select(operation == "put")) | group_by([.route, .clients])[] | (of("larder")) as $a | (of("etcd")) as $b
        | [(.[0] | .route, (.clients | tostring))]
          + (["logSyncsPerWrite", "logEntriesPerSync", "writtenBytesPerUserByte"]
             | map(. as $name | [$a, $b][] | map(.servers[$name]) | median | show)) | row)
  end),
  ($all | part("query") | if . == [] then empty else
    "## Queries over HTTP, and the same in one PostgreSQL over a Unix socket, medians\n",
    table(["operation", "clients", "larder /s", "postgres /s", "ratio", "p50 ms", "postgres p50", "p99 ms", "postgres p99", "errors"];
        group_by([.operation, .clients])[] | (of("larder")) as $a | (of("postgres")) as $b
        | [(.[0] | .operation, (.clients | tostring)),
           ($a | map(.throughput) | median | show), ($b | map(.throughput) | median | show),
           (($a | map(.throughput) | median) | over($b | map(.throughput) | median)),
           ($a | map(.p50) | median | ms), ($b | map(.p50) | median | ms), ($a | map(.p99) | median | ms), ($b | map(.p99) | median | ms),
           (map(.failed) | add // 0 | tostring)] | row) end),
  ($all | part("rights") | if . == [] then empty else
    "## With a token and ACLs, beside public documents and nobody, over HTTP, medians\n",
    table(["operation", "clients", "guarded /s", "public /s", "ratio", "p50 ms", "public p50", "times as long", "errors"];
        group_by([.operation, .clients])[] | map(select(.guarded)) as $a | map(select(.guarded | not)) as $b
        | [(.[0] | .operation, (.clients | tostring)),
           ($a | map(.throughput) | median | show), ($b | map(.throughput) | median | show),
           (($a | map(.throughput) | median) | over($b | map(.throughput) | median)),
           ($a | map(.p50) | median | ms), ($b | map(.p50) | median | ms),
           (($a | map(.p50) | median) | over($b | map(.p50) | median)),
           (map(.failed) | add // 0 | tostring)] | row) end),
  ($all | part("logins") | if . == [] then empty else
    "## Reads of public documents at 64 clients while users log in, medians\n",
    table(["log-ins offered /s", "reads /s", "log-ins answered", "refused"];
        group_by(.offered)[]
        | [(.[0].offered | tostring), (map(.throughput) | median | show), (map(.answered) | median | show), (map(.refused) | median | show)]
        | row) end),
  ($all | part("syncs") | if . == [] then empty else
    "## Syncs for each put as strace counts them\n",
    table(["system", "clients", "fsync and fdatasync a put", "log syncs a put", "entries a sync"];
        .[] | if .skipped then ["skipped: " + .skipped, "", "", "", ""]
              else [.target, (.clients | tostring), (.syncCallsPerPut | show), (.logSyncsPerPut | show), (.entriesPerSync | show)] end
        | row) end),
  ($all | part("static") | if . == [] then empty else
    "## Local gets over HTTP, and the same bytes as a file of nginx (wrk, medians)\n",
    table(["clients", "larder /s", "nginx /s", "ratio", "p50 ms", "nginx p50", "p99 ms", "nginx p99", "failed"];
        group_by(.clients)[] | (of("larder")) as $a | (of("nginx")) as $b
        | [(.[0].clients | tostring), ($a | map(.throughput) | median | show), ($b | map(.throughput) | median | show),
           (($a | map(.throughput) | median) | over($b | map(.throughput) | median)),
           ($a | map(.p50) | median | ms), ($b | map(.p50) | median | ms),
           ($a | map(.p99) | median | ms), ($b | map(.p99) | median | ms), (map(.failed) | add | tostring)] | row) end),
  ($all | part("h2load") | if . == [] then empty else
    "## Cross-check: h2load, one key, 64 streams, the node that does best (its leader)\n",
    table(["operation", "larder /s", "etcd /s", "ratio", "failed"];
        group_by(.operation)[]
        | def best: group_by(.node) | map(map(.throughput) | median) | max;
          (of("larder") | best) as $a | (of("etcd") | best) as $b
        | [.[0].operation, ($a | show), ($b | show), ($a | over($b)), (map(.failed) | add | tostring)] | row) end),
  ($all | part("feeds") | if . == [] then empty else
    "## Change feeds\n",
    table(["events from a cold log", "events /s", "writes", "writes /s", "write to subscriber p50 ms", "p99 ms", "idle subscribers", "bytes each", "CPU of the node"];
        .[] | [.events, .eventsPerSecond, .writes, .writesPerSecond, .p50Ms, .p99Ms, .subscribers, .bytesPerSubscriber, .cpuShare]
        | map(tostring) | row) end),
  ($all | part("live") | if . == [] then empty else
    "## Real-time queries\n",
    table(["writes /s", "write to subscriber p50 ms", "p99 ms", "queries", "write p99 ms without", "with"];
        .[] | [.writesPerSecond, .p50Ms, .p99Ms, .queries, .writeP99MsWithout, .writeP99MsWith]
        | map(tostring) | row) end),
  ($all | part("failover") | if . == [] then empty else
    "## Leader killed with -9: until writes to all its shards are back\n",
    table(["system", "kills", "p50 ms", "p90 ms", "p99 ms", "longest ms", "p99 of single shards ms"];
        .[] | [.target] + (.outages | [.count, .p50Ms, .p90Ms, .p99Ms, .maxMs, .perShard.p99Ms] | map(tostring)) | row) end),
  ($all | part("stop") | if . == [] then empty else
    "## SIGTERM to a node under load\n",
    table(["protocol", "stops", "answered through the other nodes", "failed there", "answered through the stopped node",
        "refused there, effect none", "unknown or not answered there", "longest stop ms"];
        group_by(.protocol)[] | [.[0].protocol, (length | tostring), (map(.others.operations) | add | tostring),
               (map(.others.refused + .others.unknown) | add | tostring), (map(.through.operations) | add | tostring),
               (map(.through.refused) | add | tostring), (map(.through.unknown) | add | tostring),
               (map(.stopMs) | max | tostring)] | row) end),
  ($all | part("idle") | if . == [] then empty else
    "## Idle\n",
    table(["shards", "CPU share of a core, each node", "resident MiB, each node", "socket writes a second, all nodes"];
        .[] | [(.shards | tostring), (.nodes | map(.cpuShare * 1000 | round / 10 | "\(.) %") | join(", ")),
               (.nodes | map(.memoryBytes / 1048576 | round | tostring) | join(", ")), (.socketWritesPerSecond | show)] | row) end),
  ($all | part("overload") | if . == [] then empty else
    "## Overload with 512 MiB a node\n",
    table(["clients", "seconds", "cgroup", "done /s", "refused or failed", "highest resident MiB", "killed for memory", "nodes gone"];
        .[] | [(.clients | tostring), (.seconds | show), (.cgroup | tostring), (.throughput | show),
               (.errors | map(.count) | add // 0 | tostring), (.residentPeakBytes / 1048576 | round | tostring),
               (.killedForMemory | tostring), (.nodesGone | tostring)] | row) end),
  ($all | part("seal") | if . == [] then empty else
    "## Encryption at rest: off and on\n",
    table(["operation", "reads", "clients", "off /s", "on /s", "on / off", "off p99 ms", "on p99 ms", "off CPU µs", "on CPU µs"];
        map(select(.diskBytes == null)) | group_by([operation, .reads, .clients])[]
        | map(select(.sealed | not)) as $off | map(select(.sealed)) as $on
        | [(.[0] | operation, .reads, (.clients | tostring)),
           ($off | map(.throughput) | median | show), ($on | map(.throughput) | median | show),
           (($on | map(.throughput) | median) | over($off | map(.throughput) | median)),
           ($off | latency("p99") | ms), ($on | latency("p99") | ms),
           ($off | map(.servers.cpuUsPerOperation) | median | show), ($on | map(.servers.cpuUsPerOperation) | median | show)] | row),
    table(["disk", "reads", "off MiB", "on MiB"];
        map(select(.diskBytes != null)) | group_by(.reads)[]
        | def mib($sealed): map(select(.sealed == $sealed) | .diskBytes / 1048576) | median | show;
        ["all data directories", .[0].reads, mib(false), mib(true)] | row) end)
