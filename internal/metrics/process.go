// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/buildinfo"
)

// Process is a Source that tells of the process itself.
type Process struct{}

// ticks is the unit of times in /proc/PID/stat, per second: USER_HZ, which is
// 100 on every architecture Go knows.
const ticks = 100

// Collect adds what every Prometheus client tells of its process.
func (Process) Collect(p *Page) {
	build := buildinfo.Read()
	p.Set("ocicat_build_info", 1, build.Version, build.Commit, build.Go)
	p.Set("go_info", 1, build.Go)
	p.Set("go_goroutines", float64(runtime.NumGoroutine()))
	// Unlike runtime.ReadMemStats, this does not stop the program.
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/total:bytes"}}
	metrics.Read(samples)
	p.Set("go_memstats_heap_alloc_bytes", float64(samples[0].Value.Uint64()))
	p.Set("go_memstats_sys_bytes", float64(samples[1].Value.Uint64()))
	if stat, err := os.ReadFile("/proc/self/stat"); err == nil {
		collectStat(p, string(stat), bootTime())
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.Set("process_open_fds", float64(len(open)-1)) // without the one it is read through
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		p.Set("process_max_fds", float64(limit.Cur))
	}
}

// collectStat reads /proc/PID/stat, proc_pid_stat(5): the fields behind the
// program's name, which may hold anything.
func collectStat(p *Page, stat string, boot float64) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 22 {
		return
	}
	value := func(field int) float64 { // numbered from 1, as in the manual
		v, _ := strconv.ParseFloat(fields[field-3], 64)
		return v
	}
	p.Set("process_cpu_seconds_total", (value(14)+value(15))/ticks)
	p.Set("process_virtual_memory_bytes", value(23))
	p.Set("process_resident_memory_bytes", value(24)*float64(os.Getpagesize()))
	if boot > 0 {
		p.Set("process_start_time_seconds", boot+value(22)/ticks)
	}
}

// bootTime is when the machine started in seconds since 1970, 0 for unknown.
func bootTime() float64 {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), "\nbtime ")
	line, _, _ := strings.Cut(rest, "\n")
	seconds, _ := strconv.ParseFloat(line, 64)
	return seconds
}
