package stability_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store"
	waLog "go.mau.fi/whatsmeow/util/log"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// counting counts whatsmeow's lines of each level.
type counting struct{ debug, rest *atomic.Int64 }

func (c counting) Debugf(string, ...any)   { c.debug.Add(1) }
func (c counting) Infof(string, ...any)    { c.rest.Add(1) }
func (c counting) Warnf(string, ...any)    { c.rest.Add(1) }
func (c counting) Errorf(string, ...any)   { c.rest.Add(1) }
func (c counting) Sub(string) waLog.Logger { return c }

func TestHostMakesTheClientsAndGetsTheirLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		made := 0
		log := counting{new(atomic.Int64), new(atomic.Int64)}
		a := w.instance(stability.WithWhatsmeowLogger(log), stability.WithNewClient(func(d *store.Device, l waLog.Logger) *whatsmeow.Client {
			made++
			c := whatsmeow.NewClient(d, l)
			c.ManualHistorySyncDownload = true
			return c
		})).run().pair()
		require.Equal(t, 1, made)
		require.True(t, a.m.Client().ManualHistorySyncDownload)
		require.Positive(t, log.debug.Load(), "stanzas")
		require.Positive(t, log.rest.Load())
		require.Nil(t, a.status().Compat, "the Manager still sees what is received")
		w.account.Phone().RemoveDevice(w.device())
		w.await("logged out", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		a.pair()
		require.Equal(t, 2, made, "another device, another client")
		a.stop()
	})
}

func TestClientThatIsNoneOrOfAnotherDeviceIsAClearError(t *testing.T) {
	for says, f := range map[string]func(*store.Device, waLog.Logger) *whatsmeow.Client{
		"returned no client": func(*store.Device, waLog.Logger) *whatsmeow.Client { return nil },
		"on another device": func(_ *store.Device, l waLog.Logger) *whatsmeow.Client {
			return whatsmeow.NewClient(wasim.NewMemoryDevice(), l)
		},
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.instance(stability.WithNewClient(f))
			require.ErrorContains(t, a.m.Run(t.Context(), nil), says)
			require.Zero(t, w.sim.Dials())
			require.NoError(t, a.m.Close(context.Background()))
		})
	}
}

func TestWhoWaitsForChangesMissesNone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance()
		var seen []string
		over := make(chan struct{})
		go func() {
			defer close(over)
			for {
				changed := a.m.Changed()
				st := a.m.Status()
				if now := fmt.Sprint(st.Mode, " ", st.WA, " ", st.QRAvailable); len(seen) == 0 || seen[len(seen)-1] != now {
					seen = append(seen, now)
				}
				if st.Closed {
					return
				}
				<-changed
			}
		}()
		time.Sleep(time.Second)
		a.run()
		time.Sleep(10 * time.Second)
		a.pair()
		time.Sleep(time.Second)
		a.stop()
		<-over
		require.Subset(t, seen, []string{
			"passive_lock_not_acquired DISCONNECTED false", "active NEEDS_PAIRING true", "active CONNECTED false",
		})
	})
}
