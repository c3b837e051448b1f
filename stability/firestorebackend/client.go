package firestorebackend

import (
	"context"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Defaults of WithKeepalive. A connection that fell silent is replaced 25 s
// after its last answer at the latest: within the patience of the store (30 s),
// and long before a lease of 90 s runs out.
const (
	DefaultKeepaliveTime    = 20 * time.Second
	DefaultKeepaliveTimeout = 5 * time.Second
)

type clientConfig struct {
	database      string
	time, timeout time.Duration
	more          []option.ClientOption
}

// ClientOption changes what NewClient makes. A zero value means the default.
type ClientOption func(*clientConfig)

// WithDatabase names the database. Default "(default)".
func WithDatabase(id string) ClientOption {
	return func(c *clientConfig) {
		if id != "" {
			c.database = id
		}
	}
}

// WithKeepalive sets after how long a silence, while a request is under way, a
// connection is asked for a sign of life, and how long that may take. Defaults
// DefaultKeepaliveTime and DefaultKeepaliveTimeout. gRPC asks every 10 s at
// most.
func WithKeepalive(after, timeout time.Duration) ClientOption {
	return func(c *clientConfig) {
		setIf(&c.time, after)
		setIf(&c.timeout, timeout)
	}
}

// WithClientOptions hands options to Google's client: credentials, an endpoint,
// a user agent. They come last, so they win over what NewClient sets.
func WithClientOptions(opts ...option.ClientOption) ClientOption {
	return func(c *clientConfig) { c.more = append(c.more, opts...) }
}

// NewClient makes a client of Firestore for New; the caller closes it. The
// project may be firestore.DetectProjectID, or empty, which means the same: the
// project of the credentials.
//
// It differs from firestore.NewClient in two things. A request of a backend
// that gets no service is not repeated by Firestore's client, ten times in 5
// s, but by the backend, whose pauses grow. Requests of the host are repeated
// as ever. And the connection has gRPC keepalives. Firestore's client has
// none. A connection may fall silent: a NAT or a firewall forgot it, or a host
// is gone without a word. Every request on it then times out until the
// operating system gives it up, which can take 15 minutes and more. The lease
// runs out long before.
//
// FIRESTORE_EMULATOR_HOST is respected as Firestore's client does: that
// connection is made without keepalives. ctx is used for credentials, also
// later: one that ends soon is wrong here. NewClient reaches no server.
func NewClient(ctx context.Context, project string, opts ...ClientOption) (*firestore.Client, error) {
	c := clientConfig{firestore.DefaultDatabaseID, DefaultKeepaliveTime, DefaultKeepaliveTimeout, nil}
	for _, o := range opts {
		if o != nil {
			o(&c)
		}
	}
	if c.time < 0 || c.timeout < 0 {
		return nil, fmt.Errorf("firestorebackend: WithKeepalive(%v, %v): a duration cannot be negative: pass positive ones, or 0 for the defaults", c.time, c.timeout)
	}
	if project == "" {
		project = firestore.DetectProjectID
	}
	var google []option.ClientOption
	for _, o := range append(noteOptions(), keepaliveOf(c.time, c.timeout)) {
		google = append(google, option.WithGRPCDialOption(o))
	}
	google = append(google, c.more...)
	client, err := firestore.NewClientWithDatabase(ctx, project, c.database, google...)
	if err != nil {
		return nil, fmt.Errorf("firestorebackend: make a client: see that there are credentials (GOOGLE_APPLICATION_CREDENTIALS, or those of the platform) and a project: %w", err)
	}
	return client, nil
}

// DialOptions are the options that NewClient adds, with the default
// keepalives. They are for a host that makes its connection to Firestore
// itself: in grpc.NewClient for option.WithGRPCConn, or each in
// option.WithGRPCDialOption.
func DialOptions() []grpc.DialOption {
	return append(noteOptions(), keepaliveOf(DefaultKeepaliveTime, DefaultKeepaliveTimeout))
}

// keepaliveOf asks only while a request is under way: servers take pings on an
// idle connection amiss, and close it.
func keepaliveOf(after, timeout time.Duration) grpc.DialOption {
	return grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: after, Timeout: timeout})
}
