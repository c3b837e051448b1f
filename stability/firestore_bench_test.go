package stability_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wastability/wastability/authstore/authstoretest/naive"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// BenchmarkFirestore compares the backend with a naive port, in one run, on a
// simulated Firestore that is 20 ms away: what a real client's messages cost.
func BenchmarkFirestore(b *testing.B) {
	const away = 20 * time.Millisecond
	for _, f := range []struct {
		name string
		open func(b *testing.B) (*bench, *firestoresim.Server)
	}{
		{"firestorebackend", func(b *testing.B) (*bench, *firestoresim.Server) {
			place := &firestoreServer{t: b}
			x := benchOn(b, place)
			return x, place.sim
		}},
		{"naive", func(b *testing.B) (*bench, *firestoresim.Server) {
			place := newNaiveServer(b)
			x := benchOn(b, place)
			place.install(x.client.Store)
			return x, place.sim
		}},
	} {
		b.Run(f.name, func(b *testing.B) {
			x, sim := f.open(b)
			group := x.sim.NewGroup("crowd", append(x.sim.Ghosts(254), x.account, x.peer.Account())...)
			x.send(group.JID())
			sim.Fault(firestoresim.Delay(away)).Always().Now()
			for _, m := range []struct {
				name string
				once func()
			}{
				{"received", x.receive},
				{"sent", func() { x.send(x.peer.JID()) }},
				{"sent-to-256", func() { x.send(group.JID()) }},
			} {
				b.Run(m.name, func(b *testing.B) {
					defer func(outer *testing.B) { x.b = outer }(x.b)
					x.b = b
					x.measure(m.once)
				})
			}
		})
	}
}

// naiveServer is an account in memory whose client pays for one document of
// Firestore at a time, as an adapter would that knows Get and Set.
type naiveServer struct {
	*memorybackend.Memory
	b      *testing.B
	sim    *firestoresim.Server
	client *firestore.Client
}

func newNaiveServer(b *testing.B) *naiveServer {
	sim := firestoresim.New()
	b.Cleanup(sim.Close)
	client, err := sim.Client(b.Context(), "demo-naive")
	require.NoError(b, err)
	b.Cleanup(func() { _ = client.Close() })
	return &naiveServer{memorybackend.New(), b, sim, client}
}

func (s *naiveServer) billed() firestoresim.Stats { return s.sim.Stats() }

// install wraps the stores of a paired device.
func (s *naiveServer) install(d *store.Device) {
	doc := func(kind, id string) *firestore.DocumentRef {
		return s.client.Doc("wa_metrics/longrun/auth/" + kind + ":" + url.PathEscape(id))
	}
	naive.Store{
		AllStores: d.Sessions.(store.AllStores),
		Read: func(ctx context.Context, kind, id string) {
			if _, err := doc(kind, id).Get(context.WithoutCancel(ctx)); err != nil && status.Code(err) != codes.NotFound {
				s.b.Error("naive: read:", err)
			}
		},
		Write: func(ctx context.Context, kind, id string, v []byte) {
			if _, err := doc(kind, id).Set(context.WithoutCancel(ctx), map[string]any{"data": v}); err != nil {
				s.b.Error("naive: write:", err)
			}
		},
	}.Install(d)
}
