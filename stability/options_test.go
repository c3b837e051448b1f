package stability_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
)

// Typed nils, which are easily passed by mistake.
type (
	nilLock  struct{ lock.Lock }
	nilStore struct{ authstore.Store }
	nilAEAD  struct{ authstore.AEAD }
	nilSink  struct{ guard.Sink }
)

func TestEveryInvalidOptionOrCombinationIsNamedByNew(t *testing.T) {
	backend := memorybackend.New().Backend()
	without := func(change func(*stability.Backend)) stability.Option {
		b := backend
		change(&b)
		return stability.WithBackend(b)
	}
	ownLock, err := lock.New(backend.Lock, "me")
	require.NoError(t, err)
	ownStore := authstore.New(backend.Auth)
	type opts = []stability.Option
	tabled := map[string]bool{}

	// By option: what is wrong, and what the error must say besides its name.
	for option, wrong := range map[string][]struct {
		opts opts
		says string
	}{
		"WithBackend": {
			{opts{}, "localbackend.Open"},
			{opts{stability.WithBackend(stability.Backend{})}, "Backend.Lock is nil"},
			{opts{stability.WithBackend(stability.Backend{})}, "Backend.Auth is nil"},
			{opts{stability.WithBackend(stability.Backend{})}, "Backend.State is nil"},
			{opts{stability.WithBackend(stability.Backend{})}, "Backend.Incidents is nil"},
			{opts{without(func(b *stability.Backend) { b.Lock = (*lockNil)(nil) })}, "Backend.Lock is nil"},
			{opts{stability.WithBackend(backend), stability.WithBackend(backend)}, "twice"},
		},
		"WithInstanceID": {
			{opts{stability.WithBackend(backend), stability.WithInstanceID("")}, "pass a name"},
			{opts{stability.WithBackend(backend), stability.WithInstanceID("a"), stability.WithLock(ownLock)}, "WithLock"},
		},
		"WithLogger": {{opts{stability.WithBackend(backend), stability.WithLogger(nil)}, "pass a logger"}},
		"WithReconnect": {
			{opts{stability.WithBackend(backend), stability.WithReconnect(reconnect.Policy{InitialDelay: -1})}, "InitialDelay"},
			{opts{stability.WithBackend(backend), stability.WithReconnect(reconnect.Policy{MaxDelay: -1})}, "MaxDelay"},
			{opts{stability.WithBackend(backend), stability.WithReconnect(reconnect.Policy{StartJitter: -1})}, "StartJitter"},
			{opts{stability.WithBackend(backend), stability.WithReconnect(reconnect.Policy{YieldAfter: -2})}, "YieldAfter"},
			{opts{stability.WithBackend(backend), stability.WithReconnect(reconnect.Policy{InitialDelay: time.Minute, MaxDelay: time.Second})}, "MaxDelay"},
			{opts{stability.WithBackend(backend), stability.WithReconnect(reconnect.Policy{Factor: 0.5})}, "Factor"},
			{opts{stability.WithBackend(backend), stability.WithReconnect(reconnect.Policy{Jitter: 2})}, "Jitter"},
			{opts{stability.WithBackend(backend), stability.WithReconnect(reconnect.Policy{LoopWindow: time.Second})}, "LoopWindow"},
		},
		"WithConnectTimeout":  {{opts{stability.WithBackend(backend), stability.WithConnectTimeout(-1)}, "negative"}},
		"WithShutdownTimeout": {{opts{stability.WithBackend(backend), stability.WithShutdownTimeout(-1)}, "negative"}},
		"WithWhatsmeowLogger": {
			{opts{stability.WithBackend(backend), stability.WithWhatsmeowLogger(nil)}, "pass a logger"},
		},
		"WithNewClient": {
			{opts{stability.WithBackend(backend), stability.WithNewClient(nil)}, "makes a client"},
		},
		"WithPairingClient": {
			{opts{stability.WithBackend(backend), stability.WithPairingClient(whatsmeow.PairClientChrome, "")}, "is no name"},
			{opts{stability.WithBackend(backend), stability.WithPairingClient(whatsmeow.PairClientChrome, "Chrome")}, "Browser"},
		},
		"WithPairingRounds": {{opts{stability.WithBackend(backend), stability.WithPairingRounds(-1)}, "negative"}},
		"WithKeepalive": {
			{opts{stability.WithBackend(backend), stability.WithKeepalive(keepalive.Policy{MaxFailures: -1})}, "MaxFailures"},
			{opts{stability.WithBackend(backend), stability.WithKeepalive(keepalive.Policy{StaleAfter: -1})}, "StaleAfter"},
		},
		"WithAutoHeal": {
			{opts{stability.WithBackend(backend), stability.WithAutoHeal(autoheal.Policy{Budget: -1})}, "Budget"},
			{opts{stability.WithBackend(backend), stability.WithAutoHeal(autoheal.Policy{Window: time.Hour}), stability.WithReconnect(reconnect.Policy{LoopWindow: time.Minute})}, "LoopWindow"},
		},
		"WithGuard": {
			{opts{stability.WithBackend(backend), stability.WithGuard(guard.Policy{Refresh: -1})}, "Refresh"},
			{opts{stability.WithBackend(backend), stability.WithGuard(guard.Policy{StuckAfter: -1})}, "StuckAfter"},
		},
		"WithExit":      {{opts{stability.WithBackend(backend), stability.WithExit(nil)}, "pass a function"}},
		"WithTransport": {{opts{stability.WithBackend(backend), stability.WithTransport(nil)}, "pass a transport"}},
		"WithQR":        {{opts{stability.WithBackend(backend), stability.WithQR(nil)}, "pass a function"}},
		"WithObserver":  {{opts{stability.WithBackend(backend), stability.WithObserver(nil)}, "pass a function"}},
		"WithSink": {
			{opts{stability.WithBackend(backend), stability.WithSink(nil)}, "pass a sink"},
			{opts{stability.WithBackend(backend), stability.WithSink((*nilSink)(nil))}, "pass a sink"},
		},
		"WithAEAD": {
			{opts{stability.WithBackend(backend), stability.WithAEAD(nil)}, "NewAESGCM"},
			{opts{stability.WithBackend(backend), stability.WithAEAD((*nilAEAD)(nil))}, "NewAESGCM"},
			{opts{stability.WithBackend(backend), stability.WithAuthStore(ownStore), stability.WithAEAD(authstore.NewAESGCM([32]byte{}))}, "WithAuthStore"},
		},
		"WithLock": {
			{opts{stability.WithBackend(backend), stability.WithLock(nil)}, "pass a lock"},
			{opts{stability.WithBackend(backend), stability.WithLock((*nilLock)(nil))}, "pass a lock"},
		},
		"WithLockOptions": {
			{opts{stability.WithBackend(backend), stability.WithLockOptions(lock.WithLease(-1))}, "negative"},
			{opts{stability.WithBackend(backend), stability.WithLockOptions(lock.WithLease(time.Second), lock.WithRefresh(time.Minute))}, "lengthen the lease"},
			{opts{stability.WithBackend(backend), stability.WithLockOptions(lock.WithRefresh(-time.Second))}, "negative"},
			{opts{stability.WithBackend(backend), stability.WithLockOptions(lock.WithRefresh(10 * time.Minute))}, "lengthen the lease"},
			{opts{stability.WithBackend(backend), stability.WithLockOptions(lock.WithMargin(-time.Second))}, "negative"},
			{opts{stability.WithBackend(backend), stability.WithLockOptions(lock.WithMargin(45 * time.Second))}, "less than"},
			{opts{stability.WithBackend(backend), stability.WithLockOptions(nil)}, "nil"},
			{opts{stability.WithBackend(backend), stability.WithLockOptions(lock.WithPoll(time.Second), nil)}, "nil"},
			{opts{stability.WithBackend(backend), stability.WithLock(ownLock), stability.WithLockOptions(lock.WithPoll(time.Second))}, "WithLock"},
		},
		"WithAuthStore": {
			{opts{stability.WithBackend(backend), stability.WithAuthStore(nil)}, "pass a store"},
			{opts{stability.WithBackend(backend), stability.WithAuthStore((*nilStore)(nil))}, "pass a store"},
		},
		"WithAuthStoreOptions": {
			{opts{stability.WithBackend(backend), stability.WithAuthStoreOptions(nil)}, "nil"},
			{opts{stability.WithBackend(backend), stability.WithAuthStoreOptions(authstore.WithCallTimeout(-1))}, "WithCallTimeout(-1ns) is negative"},
			{opts{stability.WithBackend(backend), stability.WithAuthStoreOptions(authstore.WithOutagePatience(-1))}, "WithOutagePatience(-1ns) is negative"},
			{opts{stability.WithBackend(backend), stability.WithAuthStoreOptions(authstore.WithWindowWait(-1))}, "WithWindowWait(-1ns) is negative"},
			{opts{stability.WithBackend(backend), stability.WithAuthStoreOptions(authstore.WithSenderKeyCache(-1))}, "WithSenderKeyCache(-1) is negative"},
			{opts{stability.WithBackend(backend), stability.WithAuthStoreOptions(authstore.WithRetention(authstore.Retention{SetAside: -1}))}, "Retention.SetAside is negative"},
			{opts{stability.WithBackend(backend), stability.WithAuthStore(ownStore), stability.WithAuthStoreOptions(authstore.WithCallTimeout(time.Second))}, "WithAuthStore"},
		},
		// Nothing can be wrong with these.
		"WithVersionRefresh":   nil,
		"WithPairingOnRequest": nil,
	} {
		t.Run(option, func(t *testing.T) {
			for _, c := range wrong {
				m, err := stability.New(c.opts...)
				require.Error(t, err, c.says)
				require.Nil(t, m)
				require.ErrorContains(t, err, option)
				require.ErrorContains(t, err, c.says)
				require.True(t, strings.HasPrefix(err.Error(), "stability: "), "%v", err)
			}
		})
		tabled[option] = true
	}

	for _, option := range exportedOptions(t) {
		require.True(t, tabled[option], "%s is in no row of this table", option)
	}

	// All mistakes are reported together.
	_, err = stability.New(stability.WithQR(nil), stability.WithPairingRounds(-1), nil)
	for _, says := range []string{"WithBackend", "WithQR", "WithPairingRounds", "nil Option"} {
		require.ErrorContains(t, err, says)
	}
}

type lockNil struct{ lock.Store }

// exportedOptions reads the package's source.
func exportedOptions(t *testing.T) (names []string) {
	t.Helper()
	files, err := os.ReadDir(".")
	require.NoError(t, err)
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0)
		require.NoError(t, err)
		for _, d := range parsed.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !fn.Name.IsExported() || fn.Type.Results == nil {
				continue
			}
			if id, ok := fn.Type.Results.List[0].Type.(*ast.Ident); ok && id.Name == "Option" {
				names = append(names, fn.Name.Name)
			}
		}
	}
	require.Greater(t, len(names), 20)
	return names
}
