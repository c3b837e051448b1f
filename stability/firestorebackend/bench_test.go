package firestorebackend

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// What each shape of write costs: requests, documents read and written.
func BenchmarkWrites(b *testing.B) {
	entry := func(kind, id string, size int) authstore.Entry {
		return authstore.Entry{Key: authstore.Key{Kind: authstore.Kind(kind), ID: "g1/" + id}, Value: random(size)}
	}
	shapes := map[string]func(i int) authstore.Batch{
		"received": func(i int) authstore.Batch { // what authstore commits for one message
			return authstore.Batch{Put: []authstore.Entry{
				entry("session", "491701:0", 1200), entry("event", fmt.Sprint(i), 400), entry("secret", fmt.Sprintf("%d/s/1", i%64), 120), entry("seen", "1", 2000),
			}, Delete: []authstore.Key{{Kind: "event", ID: fmt.Sprint("g1/", i-1)}}}
		},
		"sent": func(int) authstore.Batch {
			return authstore.Batch{Put: []authstore.Entry{entry("session", "491701:0", 1200)}}
		},
		"sent-to-group": func(int) authstore.Batch {
			return authstore.Batch{Put: []authstore.Entry{entry("senderkey", "491700:1/123@g.us", 800)}}
		},
		"first-to-group-256": func(int) (out authstore.Batch) {
			for n := range 256 {
				out.Put = append(out.Put, entry("session", fmt.Sprintf("49170%d:0", n), 1200))
			}
			return out
		},
		"prekeys-812": func(int) (out authstore.Batch) {
			for n := range 13 {
				out.Put = append(out.Put, entry("prekey", fmt.Sprint(n), 64*75))
			}
			return out
		},
	}
	for name, shape := range shapes {
		b.Run("commit/"+name, func(b *testing.B) {
			s := sim(b)
			be := opened(b, onSim(b, s))
			rec := hold(b, be)
			for i := range 70 {
				require.NoError(b, be.Auth.Commit(b.Context(), rec.Epoch, shape(i)))
			}
			report(b, s, func(i int) error { return be.Auth.Commit(b.Context(), rec.Epoch, shape(70+i)) })
		})
	}
	b.Run("renew", func(b *testing.B) {
		s := sim(b)
		be := opened(b, onSim(b, s))
		rec := hold(b, be)
		report(b, s, func(int) (err error) { rec, err = be.Lock.Renew(b.Context(), rec); return err })
	})
	b.Run("acquire", func(b *testing.B) {
		s := sim(b)
		be := opened(b, onSim(b, s))
		hold(b, be)
		report(b, s, func(int) error {
			_, _, err := be.Lock.Acquire(b.Context(), "one", rand.Text(), time.Hour)
			return err
		})
	})
	b.Run("save-state", func(b *testing.B) {
		s := sim(b)
		be := opened(b, onSim(b, s))
		rec := hold(b, be)
		require.NoError(b, be.State.Save(b.Context(), rec.Epoch, reconnect.State{}))
		report(b, s, func(i int) error { return be.State.Save(b.Context(), rec.Epoch, reconnect.State{RetryCount: i}) })
	})
}

func report(b *testing.B, s *firestoresim.Server, f func(i int) error) {
	b.Helper()
	s.ResetStats()
	b.ResetTimer()
	for i := range b.N {
		if err := f(i); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	st := s.Stats()
	rpcs := 0
	for _, n := range st.RPCs {
		rpcs += n
	}
	for unit, n := range map[string]int{"rpcs/op": rpcs, "reads/op": st.Reads, "writes/op": st.Writes, "deletes/op": st.Deletes} {
		b.ReportMetric(float64(n)/float64(b.N), unit)
	}
}
