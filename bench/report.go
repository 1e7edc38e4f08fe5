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

// head begins the report.
const head = "# Benchmarks\n\n" +
	"Made by `make bench`: do not edit. Times are of one run on one machine that others use too: trust the ratios. " +
	"A ratio is Ocicat's figure over the other's in the same run.\n" +
	"What dominates and what was tried: [docs/performance.md](../docs/performance.md). Aims that are not met are in bold.\n"

// report is the page of all results.
func report(all []result) string {
	var b strings.Builder
	b.WriteString(head)
	for _, r := range all {
		fmt.Fprintf(&b, "\n## %s\n", r.Title)
		for _, line := range r.Machine {
			fmt.Fprintf(&b, "* %s\n", line)
		}
		b.WriteString("\n| figure | aim | measured | |\n|---|---|---|---|\n")
		for _, f := range r.Figures {
			verdict := "met"
			switch {
			case f.Aim == "":
				verdict = ""
			case !f.Met:
				verdict = "**not met**"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.Name, f.Aim, number(f.Value, f.Unit), verdict)
		}
		if r.Details != "" {
			fmt.Fprintf(&b, "\n%s", r.Details)
		}
	}
	return b.String()
}

// machine says where and when.
func machine() []string {
	var uts unix.Utsname
	var info unix.Sysinfo_t
	if unix.Uname(&uts) != nil || unix.Sysinfo(&info) != nil {
		return nil
	}
	const scale = 1 << 16 // sysinfo(2)
	return []string{
		fmt.Sprintf("%s, commit %s, load average at the end %.1f", time.Now().UTC().Format("2006-01-02 15:04 MST"), commit(), float64(info.Loads[0])/scale),
		fmt.Sprintf("%d × %s, %d GiB, Linux %s, %s", runtime.NumCPU(), cpuModel(), info.Totalram*uint64(info.Unit)>>30, unix.ByteSliceToString(uts.Release[:]), runtime.Version()),
	}
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
