package ondemandreceiver

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"
	"go.opentelemetry.io/collector/pdata/pcommon"
	conv "go.opentelemetry.io/otel/semconv/v1.43.0/systemconv"
)

// loadAverage has no name in the conventions; it is the Collector's own
// (hostmetrics receiver).
type loadAverage string

func (l loadAverage) Name() string      { return "system.cpu.load_average." + string(l) }
func (loadAverage) Unit() string        { return "{thread}" }
func (loadAverage) Description() string { return "Average of the threads that run or wait to run." }

// system writes what can be read of this system. It fails when nothing can.
func system(ctx context.Context, b *builder) error {
	if boot, err := host.BootTimeWithContext(ctx); !b.fail("the time of the start", err) {
		b.start = pcommon.NewTimestampFromTime(time.Unix(int64(boot), 0))
		b.gauge(conv.Uptime{}).SetDoubleValue(b.now.AsTime().Sub(b.start.AsTime()).Seconds())
	}
	before := b.metrics.Len()
	for _, part := range []func(context.Context, *builder){processors, memory, paging, loads, disks, filesystems, network} {
		part(ctx, b)
	}
	if b.metrics.Len() == before {
		return b.failed
	}
	return nil
}

func processors(ctx context.Context, b *builder) {
	if n, err := cpu.CountsWithContext(ctx, true); !b.fail("the number of logical processors", err) {
		b.upDown(conv.CPULogicalCount{}).SetIntValue(int64(n))
	}
	if n, err := cpu.CountsWithContext(ctx, false); !b.fail("the number of physical processors", err) && n > 0 {
		b.upDown(conv.CPUPhysicalCount{}).SetIntValue(int64(n))
	}
	times, err := cpu.TimesWithContext(ctx, true)
	if b.fail("processor times", err) {
		return
	}
	i := conv.CPUTime{}
	for n, t := range times {
		for _, m := range []struct {
			mode    conv.CPUModeAttr
			seconds float64
		}{
			{conv.CPUModeUser, t.User},
			{conv.CPUModeSystem, t.System},
			{conv.CPUModeNice, t.Nice},
			{conv.CPUModeIdle, t.Idle},
			{conv.CPUModeIOWait, t.Iowait},
			{conv.CPUModeInterrupt, t.Irq + t.Softirq},
			{conv.CPUModeSteal, t.Steal},
		} {
			b.counter(i, i.AttrCPUMode(m.mode), i.AttrCPULogicalNumber(n)).SetDoubleValue(m.seconds)
		}
	}
}

func memory(ctx context.Context, b *builder) {
	m, err := mem.VirtualMemoryWithContext(ctx)
	if b.fail("memory", err) {
		return
	}
	b.upDown(conv.MemoryLimit{}).SetIntValue(integer(m.Total))
	states := []struct {
		state conv.MemoryStateAttr
		bytes uint64
	}{
		{conv.MemoryStateUsed, m.Used},
		{conv.MemoryStateFree, m.Free},
		{conv.MemoryStateBuffers, m.Buffers},
		{conv.MemoryStateCached, m.Cached},
	}
	usage := conv.MemoryUsage{}
	for _, s := range states {
		b.upDown(usage, usage.AttrMemoryState(s.state)).SetIntValue(integer(s.bytes))
	}
	utilization := conv.MemoryUtilization{}
	for _, s := range states {
		b.gauge(utilization, utilization.AttrMemoryState(s.state)).SetDoubleValue(share(s.bytes, m.Total))
	}
}

func paging(ctx context.Context, b *builder) {
	s, err := mem.SwapMemoryWithContext(ctx)
	if b.fail("swap space", err) || s.Total == 0 {
		return
	}
	i := conv.PagingUsage{}
	b.upDown(i, i.AttrPagingState(conv.PagingStateUsed)).SetIntValue(integer(s.Used))
	b.upDown(i, i.AttrPagingState(conv.PagingStateFree)).SetIntValue(integer(s.Free))
}

func loads(ctx context.Context, b *builder) {
	l, err := load.AvgWithContext(ctx)
	if b.fail("the load", err) {
		return
	}
	b.gauge(loadAverage("1m")).SetDoubleValue(l.Load1)
	b.gauge(loadAverage("5m")).SetDoubleValue(l.Load5)
	b.gauge(loadAverage("15m")).SetDoubleValue(l.Load15)
}

func disks(ctx context.Context, b *builder) {
	found, err := disk.IOCountersWithContext(ctx)
	if b.fail("disks", err) {
		return
	}
	names := slices.Sorted(maps.Keys(found))
	bytes, operations := conv.DiskIO{}, conv.DiskOperations{}
	for _, n := range names {
		b.counter(bytes, bytes.AttrDevice(n), bytes.AttrDiskIODirection(conv.DiskIODirectionRead)).SetIntValue(integer(found[n].ReadBytes))
		b.counter(bytes, bytes.AttrDevice(n), bytes.AttrDiskIODirection(conv.DiskIODirectionWrite)).SetIntValue(integer(found[n].WriteBytes))
	}
	for _, n := range names {
		b.counter(operations, operations.AttrDevice(n), operations.AttrDiskIODirection(conv.DiskIODirectionRead)).SetIntValue(integer(found[n].ReadCount))
		b.counter(operations, operations.AttrDevice(n), operations.AttrDiskIODirection(conv.DiskIODirectionWrite)).SetIntValue(integer(found[n].WriteCount))
	}
}

func filesystems(ctx context.Context, b *builder) {
	found, err := disk.PartitionsWithContext(ctx, false)
	if b.fail("file systems", err) {
		return
	}
	i := conv.FilesystemUsage{}
	for _, p := range found {
		u, err := disk.UsageWithContext(ctx, p.Mountpoint)
		if b.fail("the file system at "+p.Mountpoint, err) {
			continue
		}
		mode := "rw"
		for _, option := range p.Opts {
			if option == "ro" {
				mode = option
			}
		}
		for _, s := range []struct {
			state conv.FilesystemStateAttr
			bytes uint64
		}{
			{conv.FilesystemStateUsed, u.Used},
			{conv.FilesystemStateFree, u.Free},
			{conv.FilesystemStateReserved, reserved(u)},
		} {
			b.upDown(i, i.AttrDevice(p.Device), i.AttrFilesystemMountpoint(p.Mountpoint), i.AttrFilesystemMode(mode),
				i.AttrFilesystemType(conv.FilesystemTypeAttr(p.Fstype)), i.AttrFilesystemState(s.state)).SetIntValue(integer(s.bytes))
		}
	}
}

// reserved is what only the superuser may still write to.
func reserved(u *disk.UsageStat) uint64 {
	if u.Used+u.Free >= u.Total {
		return 0
	}
	return u.Total - u.Used - u.Free
}

func network(ctx context.Context, b *builder) {
	found, err := net.IOCountersWithContext(ctx, true)
	if b.fail("network interfaces", err) {
		return
	}
	bytes, packets, errs, dropped := conv.NetworkIO{}, conv.NetworkPacketCount{}, conv.NetworkErrors{}, conv.NetworkPacketDropped{}
	for _, c := range found {
		b.counter(bytes, bytes.AttrNetworkInterfaceName(c.Name), bytes.AttrNetworkIODirection(conv.NetworkIODirectionTransmit)).SetIntValue(integer(c.BytesSent))
		b.counter(bytes, bytes.AttrNetworkInterfaceName(c.Name), bytes.AttrNetworkIODirection(conv.NetworkIODirectionReceive)).SetIntValue(integer(c.BytesRecv))
	}
	for _, c := range found {
		b.counter(packets, packets.AttrDevice(c.Name), packets.AttrNetworkIODirection(conv.NetworkIODirectionTransmit)).SetIntValue(integer(c.PacketsSent))
		b.counter(packets, packets.AttrDevice(c.Name), packets.AttrNetworkIODirection(conv.NetworkIODirectionReceive)).SetIntValue(integer(c.PacketsRecv))
	}
	for _, c := range found {
		b.counter(errs, errs.AttrNetworkInterfaceName(c.Name), errs.AttrNetworkIODirection(conv.NetworkIODirectionTransmit)).SetIntValue(integer(c.Errout))
		b.counter(errs, errs.AttrNetworkInterfaceName(c.Name), errs.AttrNetworkIODirection(conv.NetworkIODirectionReceive)).SetIntValue(integer(c.Errin))
	}
	for _, c := range found {
		b.counter(dropped, dropped.AttrNetworkInterfaceName(c.Name), dropped.AttrNetworkIODirection(conv.NetworkIODirectionTransmit)).SetIntValue(integer(c.Dropout))
		b.counter(dropped, dropped.AttrNetworkInterfaceName(c.Name), dropped.AttrNetworkIODirection(conv.NetworkIODirectionReceive)).SetIntValue(integer(c.Dropin))
	}
}

// integer is n as a data point can hold it.
func integer(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
