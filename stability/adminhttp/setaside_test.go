package adminhttp_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waAdv"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

const (
	aside       = "/api/whatsapp/quarantine"
	restore     = aside + "/restore-device"
	purgeDevice = aside + "/purge-device"
	purgeRows   = aside + "/purge-rows"
)

// newLocalPlace has its account in a file.
func newLocalPlace(t *testing.T, opts ...stability.Option) *place {
	p := newPlace(t, opts...)
	p.stop()
	file := filepath.Join(t.TempDir(), "wa.db")
	p.open = func() stability.Backend {
		b, err := localbackend.Open(file)
		require.NoError(t, err)
		return b
	}
	p.make(opts...)
	return p
}

func (p *place) purge(path string) *httptest.ResponseRecorder {
	return p.req("POST", path, `{"confirm":"`+path[strings.LastIndex(path, "/")+1:]+`"}`, "Content-Type", "application/json")
}

// damage writes over every row of kinds while nobody uses the account.
func (p *place) damage(kinds ...authstore.Kind) (n int) {
	b := p.open()
	ctx := context.Background()
	rec, granted, err := b.Lock.Acquire(ctx, "somebody", "once", time.Minute)
	require.NoError(p.t, err)
	require.True(p.t, granted)
	for _, kind := range kinds {
		for e, err := range b.Auth.Scan(ctx, kind, "") {
			require.NoError(p.t, err)
			e.Value = slices.Clone(e.Value)
			e.Value[len(e.Value)-1] ^= 1
			require.NoError(p.t, b.Auth.Commit(ctx, rec.Epoch, authstore.Batch{Put: []authstore.Entry{e}}))
			n++
		}
	}
	require.NoError(p.t, b.Lock.Release(ctx, rec))
	require.NoError(p.t, b.Close())
	return n
}

func (p *place) logOut() {
	p.sim.Fault(wasim.Failure(401)).For(p.account.JID()).OnNextLogin()
	p.sim.Fault(wasim.FIN()).For(p.account.JID()).Now()
	p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusNeedsPairing })
	time.Sleep(time.Second)
}

// golden compares an answer with a file of testdata.
func (p *place) golden(name string, w *httptest.ResponseRecorder) map[string]any {
	p.t.Helper()
	doc := p.answer(w, 200)
	got := normalise(p.t, w.Body.Bytes())
	file := filepath.Join("testdata", name+".json")
	if *update {
		require.NoError(p.t, os.WriteFile(file, got, 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(p.t, err)
	require.Equal(p.t, string(want), string(got), "run go test -update if this is meant to be so")
	return doc
}

// The whole life of what is set aside: damaged rows are listed and removed; a
// session that was logged out in error is listed and brought back, without a
// scan; one that is not wanted is removed for good.
func TestWhatWasSetAsideIsListedRestoredAndRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newLocalPlace(t).run().pair()
		bob, err := p.sim.NewContact(t.Context(), "491520000002")
		require.NoError(t, err)
		_, err = bob.Send(t.Context(), p.account.JID(), "hello")
		require.NoError(t, err)
		p.await(func(st stability.Status) bool { return !st.LastMessageAt.IsZero() })
		p.golden("quarantine_empty", p.get(aside))
		require.Equal(t, "already_paired", p.answer(p.req("POST", restore, ""), 409)["error"])
		require.Equal(t, "nothing_deleted", p.answer(p.purge(purgeDevice), 409)["error"])
		p.answer(p.purge(purgeRows), 200)
		p.stop()

		n := p.damage("session", "contact")
		require.Positive(t, n)
		p.make()
		p.run()
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		time.Sleep(time.Minute)
		p.logOut()
		doc := p.golden("quarantine_session_and_rows", p.get(aside))
		require.EqualValues(t, n, doc["rowCount"])
		require.Len(t, doc["rows"], n)
		require.NotContains(t, p.get(aside).Body.String(), "49152")
		open, err := adminhttp.New(p.m, adminhttp.WithToken(token), adminhttp.WithPhoneNumbers())
		require.NoError(t, err)
		masked := p.h
		p.h = open
		require.Contains(t, p.get(aside).Body.String(), `"peer":"200000000000002_1:1"`)
		require.Contains(t, p.get(aside).Body.String(), `"account":"491520000001`)
		p.h = masked

		for range 2 {
			p.answer(p.purge(purgeRows), 200)
			doc = p.answer(p.get(aside), 200)
			require.Empty(t, doc["rows"])
			require.Len(t, doc["devices"], 1, "the session stays")
		}
		for len(p.codes) > 0 {
			<-p.codes
		}
		p.answer(p.req("POST", restore, ""), 200)
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		require.Len(t, p.account.Devices(), 1, "the same, and nobody scanned")
		require.Empty(t, p.answer(p.get(aside), 200)["devices"])

		p.logOut()
		require.Len(t, p.answer(p.get(aside), 200)["devices"], 1)
		p.answer(p.purge(purgeDevice), 200)
		require.Empty(t, p.answer(p.get(aside), 200)["devices"])
		require.Equal(t, "nothing_deleted", p.answer(p.req("POST", restore, ""), 409)["error"])
		require.Equal(t, "nothing_deleted", p.answer(p.purge(purgeDevice), 409)["error"])
		p.stop()
		left := 0
		b := p.open()
		rec, _, err := b.Lock.Acquire(t.Context(), "somebody", "twice", time.Minute)
		require.NoError(t, err)
		for _, kind := range []authstore.Kind{"device", "session", "identity", "prekey", "quarantine"} {
			for _, err := range b.Auth.Scan(t.Context(), kind, "") {
				require.NoError(t, err)
				left++
			}
		}
		require.Zero(t, left, "for good")
		require.NoError(t, b.Lock.Release(t.Context(), rec))
		require.NoError(t, b.Close())
	})
}

// A call that the store cannot serve says so at once, and in words.
func TestWhatIsSetAsideNeedsTheLockAndAnOpenManager(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newLocalPlace(t)
		all := func(word string, code int) {
			t.Helper()
			require.Equal(t, word, p.answer(p.get(aside), code)["error"])
			require.Equal(t, word, p.answer(p.req("POST", restore, ""), code)["error"])
			require.Equal(t, word, p.answer(p.purge(purgeDevice), code)["error"])
			require.Equal(t, word, p.answer(p.purge(purgeRows), code)["error"])
		}
		all("not_active", 409)
		other := &place{t: t, sim: p.sim, account: p.account, open: p.open}
		other.make(stability.WithInstanceID("wa-2"))
		other.run().pair()
		p.run()
		time.Sleep(time.Minute)
		all("not_active", 409)
		other.stop()
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		p.answer(p.get(aside), 200)
		p.stop()
		all("closed", 503)
	})
}

func TestABackendThatDoesNotAnswerIsSaidInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		p.logOut()
		fault := func(err error) { p.fault.Store(&err) }
		p.broken.Store(true)
		w := p.get(aside)
		doc := p.answer(w, 503)
		require.Equal(t, "store_unavailable", doc["error"])
		require.NotEmpty(t, w.Header().Get("Retry-After"))
		p.broken.Store(false)

		p.hang.Store(true)
		start := time.Now()
		var wg sync.WaitGroup
		for range 3 { // one at a time, and none for longer
			wg.Go(func() { require.Equal(t, "not_in_time", p.answer(p.get(aside), 503)["error"]) })
		}
		time.Sleep(5 * time.Second)
		require.EqualValues(t, 1, p.hung.Load(), "the others wait for the first")
		wg.Wait()
		require.Equal(t, 10*time.Second, time.Since(start))
		p.hang.Store(false)
		require.Len(t, p.answer(p.get(aside), 200)["devices"], 1)

		fault(fmt.Errorf("commit: %w", authstore.ErrTooLarge))
		require.Equal(t, "store_refused", p.answer(p.purge(purgeDevice), 502)["error"])
		// An outage is waited out, within the time of a call.
		fault(errors.New("491520000002 is no route"))
		doc = p.answer(p.purge(purgeDevice), 503)
		require.Equal(t, "not_in_time", doc["error"])
		require.NotContains(t, doc["message"], "49152")
		p.fault.Store(nil)
		time.Sleep(time.Minute)
		p.answer(p.purge(purgeDevice), 200)
	})
}

func TestALockLostDuringAPurgeIsSaid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		p.logOut()
		fenced := fmt.Errorf("commit: %w", lock.ErrFenced)
		p.fault.Store(&fenced)
		require.Equal(t, "not_active", p.answer(p.purge(purgeDevice), 409)["error"])
		p.fault.Store(nil)
	})
}

// A change that was begun is finished when its caller has hung up.
func TestAPurgeGoesOnWhenItsCallerHasGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		p.logOut()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r := httptest.NewRequest("POST", purgeDevice, strings.NewReader(`{"confirm":"purge-device"}`)).WithContext(ctx)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(adminhttp.TokenHeader, token)
		w := httptest.NewRecorder()
		p.h.ServeHTTP(w, r)
		p.answer(w, 200)
		require.Empty(t, p.answer(p.get(aside), 200)["devices"])
		synctest.Wait()
	})
}

// A store of the host's own may not know how.
func TestAStoreThatCannotDoItIsSaid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		memory := memorybackend.New()
		p := newPlace(t, stability.WithAuthStore(struct{ authstore.Store }{authstore.New(memory.Backend().Auth)}))
		ok, err := p.m.TryActivate(t.Context())
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "not_supported", p.answer(p.get(aside), 501)["error"])
		require.Equal(t, "not_supported", p.answer(p.req("POST", restore, ""), 501)["error"])
		require.Equal(t, "not_supported", p.answer(p.purge(purgeDevice), 501)["error"])
		require.Equal(t, "not_supported", p.answer(p.purge(purgeRows), 501)["error"])
	})
}

// spoiled is an active Manager, by hand, on a file with a deleted session and n
// damaged rows.
func spoiled(f testing.TB, n int) *stability.Manager {
	file := filepath.Join(f.TempDir(), "wa.db")
	return spoil(f, n, func() stability.Backend {
		b, err := localbackend.Open(file)
		require.NoError(f, err)
		return b
	}, nil)
}

// spoil does it to what open opens, and calls before with the lock held.
func spoil(f testing.TB, n int, open func() stability.Backend, before func(stability.Backend, lock.Record)) *stability.Manager {
	ctx, b := context.Background(), open()
	rec, _, err := b.Lock.Acquire(ctx, "before", "once", time.Minute)
	require.NoError(f, err)
	c := authstore.New(b.Auth)
	d, err := c.Device(ctx, always(rec.Epoch))
	require.NoError(f, err)
	d.ID = &types.JID{User: "491520000001", Device: 1, Server: types.DefaultUserServer}
	d.Account = &waAdv.ADVSignedDeviceIdentity{
		Details: []byte("details"), AccountSignature: make([]byte, 64), AccountSignatureKey: make([]byte, 32), DeviceSignature: make([]byte, 64),
	}
	require.NoError(f, d.Save(ctx))
	rows := ""
	for e, err := range b.Auth.Scan(ctx, "device", "") {
		require.NoError(f, err)
		rows, _, _ = strings.Cut(e.Key.ID, "/")
	}
	for i := range n {
		require.NoError(f, b.Auth.Commit(ctx, rec.Epoch, authstore.Batch{Put: []authstore.Entry{
			{Key: authstore.Key{Kind: "session", ID: fmt.Sprintf("%s/49152%07d:0", rows, i)}, Value: []byte("\x01\x00 damaged")},
		}}))
	}
	d, err = c.Device(ctx, always(rec.Epoch))
	require.NoError(f, err)
	require.NoError(f, d.Delete(ctx))
	require.NoError(f, c.Close(ctx))
	if before != nil {
		before(b, rec)
	}
	require.NoError(f, b.Lock.Release(ctx, rec))
	require.NoError(f, b.Close())

	m, err := stability.New(stability.WithBackend(open()), stability.WithLogger(silent()))
	require.NoError(f, err)
	f.Cleanup(func() { _ = m.Close(ctx) })
	ok, err := m.TryActivate(ctx)
	require.NoError(f, err)
	require.True(f, ok)
	q, err := m.Quarantine(ctx)
	require.NoError(f, err)
	require.NotNil(f, q.Device)
	require.Len(f, q.Rows, n)
	return m
}

// always is the fence of a term that lasts.
type always int64

func (a always) Epoch() int64          { return int64(a) }
func (always) Held() bool              { return true }
func (always) TrustedUntil() time.Time { return time.Now().Add(time.Hour) }
func (always) Cut(error)               {}
