// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// percentile is the p-th percentile of the calls' wall time, nearest rank.
func (s series) percentile(p int) time.Duration {
	walls := make([]time.Duration, 0, len(s.calls))
	for _, c := range s.calls {
		walls = append(walls, c.wall)
	}
	slices.Sort(walls)
	return walls[min(len(walls)*p/100, len(walls)-1)]
}

// cpu is the mean CPU time of a call.
func (s series) cpu() time.Duration {
	var sum time.Duration
	for _, c := range s.calls {
		sum += c.cpu
	}
	return sum / time.Duration(len(s.calls))
}

// rate is how many calls were done per second.
func (s series) rate() float64 { return float64(len(s.calls)) / s.busy.Seconds() }

// compared says what the contenders do and do not do.
const compared = `
All make a veth pair, an address and routes in a namespace that is made before and closed after, unmeasured.
They promise different things. Ocicat and netlink set the same endpoint: per-device settings, permanent
neighbours, no bridge. netlink chooses the address from the container's id and forgets it: nobody can work
like that, it is the floor. ptp remembers the address in a file, host-local's, for this node alone. Ocicat's
answer stands in a journal that survives its agent, and the address stands in etcd before the ADD, for the
whole cluster; who got it is written behind the answer.

A DEL of Ocicat answers when the pod is unreachable and its release is written down; the link, which takes the
kernel longest, is destroyed behind the answer. ptp and netlink wait for that. So DEL's time is the caller's
wait, and the CPU of both sides is below.
`

// report writes what was measured.
func report(rows []row, o options) error {
	var b strings.Builder
	b.WriteString("# Plugins, exec to exit\n\nMade by `make bench`: do not edit. Times are of one run on one machine with the contenders taking turns:\ntrust the ratios.\n\n")
	machine(&b)
	fmt.Fprintf(&b, "\n%d sequential pairs of ADD and DEL and %d batches of %d at once, of each contender.\n\n", o.rounds, o.batches, o.parallel)
	for _, r := range rows {
		fmt.Fprintf(&b, "* **%s**: %s\n", r.contender.name(), r.contender.about())
	}
	b.WriteString(compared)
	b.WriteString("\n## One at a time\n\n| | ADD p50 | p99 | min | CPU | DEL p50 | p99 | min | CPU |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.contender.name(), r.add.line(), r.del.line())
	}
	fmt.Fprintf(&b, "\nCPU is of the plugin and what it executes, per call.\n\n## %d at once\n\n", o.parallel)
	b.WriteString("| | ADD p50 | p99 | per second | DEL p50 | p99 | per second |\n|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.contender.name(), r.adds.batchLine(), r.dels.batchLine())
	}
	resources(&b, rows, o.rounds)
	ratios(&b, rows, o.rounds)
	if o.out == "-" {
		_, err := os.Stdout.WriteString(b.String())
		return err
	}
	fmt.Print(b.String())
	return os.WriteFile(o.out, []byte(b.String()), 0o644)
}

func (s series) line() string {
	return fmt.Sprintf("%s | %s | %s | %s", ms(s.percentile(50)), ms(s.percentile(99)), ms(s.percentile(0)), ms(s.cpu()))
}

func (s series) batchLine() string {
	return fmt.Sprintf("%s | %s | %.0f", ms(s.percentile(50)), ms(s.percentile(99)), s.rate())
}

func resources(b *strings.Builder, rows []row, rounds int) {
	b.WriteString("\n## What it costs\n\n| | plugin, CPU per pair | daemon, CPU per pair | both | plugin, most RSS | daemon, most RSS |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		plugin, daemon := r.add.cpu()+r.del.cpu(), r.daemonCPU/time.Duration(rounds)
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", r.contender.name(), ms(plugin), ms(daemon), ms(r.cpu(rounds)), mib(r.pluginRSS), mib(r.daemonRSS))
	}
	b.WriteString("\nA pair is one ADD and its DEL, with what the daemon did behind the answers. etcd is not counted: it serves a cluster.\n")
}

// ratios says how many times as much the others take as Ocicat.
func ratios(b *strings.Builder, rows []row, rounds int) {
	own := slices.IndexFunc(rows, func(r row) bool { return r.contender.name() == "ocicat" })
	if own < 0 || len(rows) == 1 {
		return
	}
	base := rows[own]
	b.WriteString("\n## Ratios\n\n| Ocicat is 1 | ADD p50 | DEL p50 | ADD p50, at once | DEL p50, at once | CPU per pair |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(b, "| %s | %.2f | %.2f | %.2f | %.2f | %.2f |\n", r.contender.name(),
			ratio(r.add, base.add), ratio(r.del, base.del), ratio(r.adds, base.adds), ratio(r.dels, base.dels),
			float64(r.cpu(rounds))/float64(base.cpu(rounds)))
	}
}

func ratio(s, base series) float64 {
	return float64(s.percentile(50)) / float64(base.percentile(50))
}

// cpu is the CPU time of a sequential pair, of plugin and daemon.
func (r row) cpu(rounds int) time.Duration {
	return r.add.cpu() + r.del.cpu() + r.daemonCPU/time.Duration(rounds)
}

// machine says where and when.
func machine(b *strings.Builder) {
	var uts unix.Utsname
	var info unix.Sysinfo_t
	if unix.Uname(&uts) != nil || unix.Sysinfo(&info) != nil {
		return
	}
	fmt.Fprintf(b, "* date: %s\n* commit: %s\n", time.Now().UTC().Format("2006-01-02 15:04 MST"), commit())
	fmt.Fprintf(b, "* machine: %d × %s, %d GiB, Linux %s, %s\n", runtime.NumCPU(), cpuModel(), info.Totalram*uint64(info.Unit)>>30, unix.ByteSliceToString(uts.Release[:]), runtime.Version())
	const scale = 1 << 16 // sysinfo(2)
	fmt.Fprintf(b, "* load average at the end: %.1f\n", float64(info.Loads[0])/scale)
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	for line := range strings.Lines(string(text)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown CPU"
}

// ms is a time in milliseconds.
func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }

// mib is a size in MiB, a dash for none.
func mib(bytes int64) string {
	if bytes == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}
