package main

import (
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// spread is a sample's median and quartiles.
type spread struct {
	Q1     float64 `json:"q1"`
	Median float64 `json:"median"`
	Q3     float64 `json:"q3"`
}

func spreadOf(sample []float64) spread {
	return spread{Q1: quantile(sample, 0.25), Median: quantile(sample, 0.5), Q3: quantile(sample, 0.75)}
}

// quantile interpolates linearly between the two nearest ranks. It is NaN for
// an empty sample.
func quantile(sample []float64, q float64) float64 {
	if len(sample) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(sample))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 == len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// cpuClockSched is CPUCLOCK_SCHED of clock_getcpuclockid(3).
const cpuClockSched = 2

// cpuTime is the CPU time that all threads of a process have used, user and
// system: what /proc/PID/stat tells in ticks of 10 ms, in nanoseconds.
func cpuTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	clock := int32(^pid<<3 | cpuClockSched)
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}
