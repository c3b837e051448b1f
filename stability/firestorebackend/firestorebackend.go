package firestorebackend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cloud.google.com/go/firestore"

	"github.com/wastability/wastability/stability"
)

// Defaults of the options.
const (
	DefaultRoot      = "wa_metrics/longrun"
	DefaultTimeout   = 5 * time.Second
	DefaultPoll      = 10 * time.Second
	DefaultRetention = 90 * 24 * time.Hour
)

type config struct {
	root                     string
	timeout, poll, retention time.Duration
}

// Option changes a backend. A zero value means the default.
type Option func(*config)

// WithRoot sets the document under which the account lives. Default
// DefaultRoot. It is the path of a document: an even number of segments, as in
// "tenants/acme/whatsapp/support". Each account needs a root of its own.
func WithRoot(path string) Option {
	return func(c *config) {
		if path != "" {
			c.root = path
		}
	}
}

// WithTimeout bounds every single request, with what the Firestore client repeats of it
// by itself. Default 5 s. A shorter deadline of the caller's context counts. A query (a
// scan, the list of incidents) may take longer as long as documents arrive. A read of
// documents by name may not, however many they are: that is a read of keys, and of
// buckets that a commit meets for the first time.
func WithTimeout(d time.Duration) Option { return func(c *config) { setIf(&c.timeout, d) } }

// WithPoll sets how often lock.Watcher looks at the lock by itself, since a
// listener can fall silent. Default 10 s. Each look is a billed read; none is
// made while the lock is being looked at by other calls.
func WithPoll(d time.Duration) Option { return func(c *config) { setIf(&c.poll, d) } }

// WithRetention sets for how long a resolved incident is kept: its field
// expireAt, for a TTL policy. Default 90 days.
func WithRetention(d time.Duration) Option { return func(c *config) { setIf(&c.retention, d) } }

func setIf(d *time.Duration, v time.Duration) {
	if v != 0 {
		*d = v
	}
}

// backend is one instance of an account.
type backend struct {
	client                   *firestore.Client
	timeout, poll, retention time.Duration

	lockDoc, fenceDoc, credsDoc, stateDoc *firestore.DocumentRef
	keys, incidents                       *firestore.CollectionRef

	life   context.Context // ends with Close
	end    context.CancelFunc
	paces  [numLanes]pace
	clock  serverClock
	commit chan struct{} // semaphore: one write under the fence at a time

	mu     sync.Mutex // held for moments only
	writer *writer    // the newest term that this backend writes in
	newest term       // the term of the last writer
	// ended are terms that were granted here and that another has followed, by
	// their nonces; the newest of them. granted is when the newest began.
	ended     []string
	grantedAt time.Time
	look      time.Time // when the lock was last read
	// failing is since when an operation of the lock fails in a way that waiting
	// may not cure.
	failing map[string]time.Time
	// found is the update time of the lock document at that look.
	found time.Time
}

// New makes a backend for one account. The client stays the caller's: Close
// does not close it, and many backends may share it. New does no I/O; an error
// names the option at fault.
func New(client *firestore.Client, opts ...Option) (stability.Backend, error) {
	b, err := open(client, opts)
	if err != nil {
		return stability.Backend{}, err
	}
	return stability.Backend{
		Name: "firestore", Lock: attentive{lockStore{b}, new(atomic.Int32)}, Auth: keyValues{b}, State: stateStore{b}, Incidents: incidentStore{b},
		Close: func() error {
			b.end()
			return nil
		},
		Destroy: func(ctx context.Context) error { return destroyAccount(ctx, client, opts...) },
	}, nil
}

func open(client *firestore.Client, opts []Option) (*backend, error) {
	if client == nil {
		return nil, errors.New("firestorebackend: no client: pass the one that firestorebackend.NewClient returns")
	}
	c := config{DefaultRoot, DefaultTimeout, DefaultPoll, DefaultRetention}
	for _, o := range opts {
		if o != nil {
			o(&c)
		}
	}
	if err := checkRoot(c.root); err != nil {
		return nil, err
	}
	for _, o := range []struct {
		name string
		d    time.Duration
	}{{"WithTimeout", c.timeout}, {"WithPoll", c.poll}, {"WithRetention", c.retention}} {
		if o.d < 0 {
			return nil, fmt.Errorf("firestorebackend: %s(%v): a duration cannot be negative: pass a positive one, or 0 for the default", o.name, o.d)
		}
	}
	root := client.Doc(c.root)
	if root == nil {
		return nil, fmt.Errorf("firestorebackend: WithRoot(%q) is not the path of a document", c.root)
	}
	creds := root.Collection("whatsmeow_auth").Doc("creds")
	b := &backend{
		client: client, timeout: c.timeout, poll: c.poll, retention: c.retention,
		lockDoc:   root.Collection("locks").Doc("wa_connection"),
		fenceDoc:  root.Collection("locks").Doc("wa_connection_fence"),
		credsDoc:  creds,
		keys:      creds.Collection("keys"),
		stateDoc:  root.Collection("state").Doc("wa_connection"),
		incidents: root.Collection("incidents"),
		commit:    make(chan struct{}, 1),
		failing:   make(map[string]time.Time),
	}
	b.life, b.end = context.WithCancel(context.Background())
	return b, nil
}
