//! `spec.tls` and `status.tls`. No word here is one that YAML 1.1 reads as a truth value, as it does Off.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Encryption of the client port, between the pods, and of the admin port.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secretName) == (self.mode == 'Secret')")
        .message("tls.secretName goes with tls.mode Secret, and only with it"),
    validation = Rule::new("has(self.issuerRef) == (self.mode == 'CertManager')")
        .message("tls.issuerRef goes with tls.mode CertManager, and only with it"),
    validation = Rule::new("self.mode in ['Managed', 'CertManager'] || !has(self.names) || self.names.size() == 0")
        .message("tls.names is for certificates that the operator makes or asks for: set tls.mode to Managed or CertManager"),
    validation = Rule::new("self.mode != 'Disabled' || self.clients == 'Optional'")
        .message("tls.clients needs another tls.mode than Disabled"),
    validation = Rule::new("!has(self.clientAuth) || (self.mode != 'Disabled' && self.clients != 'Disabled')")
        .message("tls.clientAuth is for clients that come by TLS: set tls.clients to Required, or to Optional to let others in without a certificate at the port in the clear")
)]
pub struct TlsSpec {
    /// Managed: the operator has an authority for this cluster (Secret `<name>-ca`), signs a certificate with it (Secret
    /// `<name>-tls`) and renews that after two thirds of its life. CertManager: the operator asks cert-manager for that
    /// certificate (Certificate `<name>-tls`), by the issuer issuerRef. Secret: the certificate is in the Secret secretName,
    /// kept by somebody else. Disabled: everything is in the clear. Cannot be changed; what a cluster was made with stands
    /// in status.doors. Example: CertManager. Default: Managed.
    #[serde(default)]
    pub mode: TlsMode,
    /// Secret with tls.crt, tls.key and ca.crt (kubernetes.io/tls). The certificate must be valid for
    /// `*.<name>-raft.<namespace>.svc` and the Services, as server and as client; ca.crt must sign nothing but this
    /// cluster's certificates: whoever has one may take part. Example: cart-certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// Who signs, with mode CertManager: an issuer of cert-manager that signs nothing but this cluster's certificates, and
    /// writes its own into ca.crt. Whoever has a certificate of it may take part. Example: {name: cart, kind: Issuer}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
    /// How clients connect: Optional, at port 6379 in the clear or at 6380 by TLS; Required, only at 6380; Disabled, only at
    /// 6379. Pods and operator always talk by mutual TLS. Default: Optional.
    #[serde(default)]
    pub clients: ClientTls,
    /// Certificates that clients are asked for at the port with TLS. Changes need a rolling restart; another ca.crt in the
    /// Secret does not. Example: {secretName: cart-clients, user: CommonName}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// Further names and addresses that a certificate of mode Managed or CertManager is valid for: of a load balancer, say.
    /// Example: [cart.example.com].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub names: Vec<TlsName>,
}

/// A host name or address in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TlsName(#[schemars(length(min = 1, max = 253))] pub String);

/// Where certificates come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// There are none.
    Disabled,
    /// The operator makes them.
    #[default]
    Managed,
    /// A Secret of somebody else.
    Secret,
    /// cert-manager makes them, as the operator asks.
    CertManager,
}

/// An issuer of cert-manager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Its name. Example: cart.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Issuer, of the same namespace; ClusterIssuer; or a kind of the group. Example: ClusterIssuer. Default: Issuer.
    #[serde(default = "issuer")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// API group of the kind. Example: awspca.cert-manager.io. Default: cert-manager.io.
    #[serde(default = "cert_manager")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

fn issuer() -> String {
    "Issuer".to_owned()
}

fn cert_manager() -> String {
    "cert-manager.io".to_owned()
}

/// How clients connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClientTls {
    /// In the clear or by TLS.
    #[default]
    Optional,
    /// By TLS.
    Required,
    /// In the clear.
    Disabled,
}

/// Certificates of clients.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientAuth {
    /// Secret of this namespace whose ca.crt has the authorities that sign the clients' certificates. Not the cluster's own:
    /// what that one signs may take part in the cluster. Example: cart-clients.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// Required: who shows none is not let in. Optional: they are, and need a password as ever. Default: Required.
    #[serde(default)]
    pub certificate: ClientCertificate,
    /// Whose login a certificate is: Nobody, a password is needed beside it; CommonName, that of the user of spec.auth with
    /// its common name; AlternativeName, that of the first user with one of its alternative names (DNS, e-mail, URI). A name
    /// that no user has needs a password as well; default is the name of a user, with all rights. Example: CommonName. Default: Nobody.
    #[serde(default)]
    pub user: CertificateUser,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClientCertificate {
    /// It must.
    #[default]
    Required,
    /// It may.
    Optional,
}

/// Whose login a certificate is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CertificateUser {
    /// Nobody's.
    #[default]
    Nobody,
    /// That of the user with its common name.
    CommonName,
    /// That of the first user with one of its alternative names.
    AlternativeName,
}

/// The certificate in use.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsStatus {
    /// When the certificate of the Secret ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// Pods that showed this certificate in a handshake of the operator, of those that run: "3/3". A new certificate
    /// takes up to two minutes to reach the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<String>,
    /// What is wrong with the Secret, or that there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}
