package nonceextension

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension/extensiontest"

	"github.com/telemark-otel/telemark/internal/replay"
)

// BenchmarkClaimConfirmOnDisk: requests of 10 blocks through the real file storage
// with fsync, from that many senders at once.
func BenchmarkClaimConfirmOnDisk(b *testing.B) {
	for _, senders := range []int{1, 10, 50} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			f := filestorage.NewFactory()
			fc := f.CreateDefaultConfig().(*filestorage.Config)
			fc.Directory, fc.FSync = b.TempDir(), true
			files, err := f.Create(b.Context(), extensiontest.NewNopSettings(f.Type()), fc)
			if err != nil {
				b.Fatal(err)
			}
			if err := files.Start(b.Context(), componenttest.NewNopHost()); err != nil {
				b.Fatal(err)
			}
			defer func() { _ = files.Shutdown(context.Background()) }()
			cfg := createDefaultConfig().(*Config)
			cfg.ServerConfig.NetAddr.Endpoint, cfg.Admin.NetAddr.Endpoint = "127.0.0.1:0", "127.0.0.1:0"
			withStorage(cfg)
			set, _ := settings()
			e, err := newExtension(set, cfg)
			if err != nil {
				b.Fatal(err)
			}
			if err := e.Start(b.Context(), hostWith(storageID, files)); err != nil {
				b.Fatal(err)
			}
			defer func() { _ = e.Shutdown(context.Background()) }()

			b.SetParallelism((senders + 1) / 2) // times GOMAXPROCS, 2 where this was measured
			b.RunParallel(func(pb *testing.PB) {
				stream := fmt.Sprint("s", time.Now().UnixNano())
				for n := uint64(1); pb.Next(); n += 10 {
					request(b, e.Windows(), stream, n)
				}
			})
		})
	}
}

// request delivers 10 blocks of a stream, each sender under its own key.
func request(b *testing.B, w replay.Store, stream string, from uint64) {
	blocks := make([]replay.Block, 10)
	for i := range blocks {
		blocks[i] = replay.Block{Scope: "tpmverify", KID: stream, Epoch: 1, Stream: stream, No: from + uint64(i), Seq: from, Issued: time.Now()}
		blocks[i].Statement[0], blocks[i].Statement[1], blocks[i].Statement[2] = byte(from), byte(from>>8), byte(from>>16)
	}
	out, err := w.Claim(b.Context(), time.Now(), blocks)
	if err != nil {
		b.Error(err)
		return
	}
	claims := make([]replay.Claim, len(out))
	for i := range out {
		claims[i] = out[i].Claim
	}
	if lost, err := w.Confirm(b.Context(), time.Now(), claims); err != nil || lost != 0 {
		b.Error(lost, err)
	}
}
